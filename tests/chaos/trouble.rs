//! What goes wrong, at random: the way to the API server, and the provisioner itself.

use std::time::{Duration, Instant};

use fastrand::Rng;
use parking_lot::Mutex;

use crate::support::process::Process;
use crate::support::proxy::{Action, Asked, Fault, Proxy};
use crate::support::space::Space;
use crate::world::World;

const KINDS: [&str; 3] = ["persistentvolumes", "persistentvolumeclaims", "storageclasses"];

pub(crate) struct Trouble<'a> {
    space: &'a Space,
    proxy: &'a Proxy,
    rng: Rng,
    faults: Vec<(Instant, Fault)>,
    process: Option<Process>,
    /// When a process that was killed is started again.
    start: Instant,
    pub(crate) kills: usize,
}

impl<'a> Trouble<'a> {
    pub(crate) fn new(space: &'a Space, proxy: &'a Proxy, rng: Rng) -> Self {
        Self { space, proxy, rng, faults: Vec::new(), process: None, start: Instant::now(), kills: 0 }
    }

    fn begin_process(&mut self) {
        let mut settings = self.space.settings_through(self.proxy);
        // The lock of one that was killed would have to be waited for.
        settings.environment.push(("ENABLE_LEADER_ELECTION".to_owned(), "false".to_owned()));
        self.process = Some(Process::start(&settings));
    }

    /// Has things go wrong until all ends, and well from then on.
    pub(crate) async fn make(&mut self, world: &World<'_>) {
        while !world.has_ended.get() {
            self.step(world);
            tokio::time::sleep(Duration::from_millis(self.rng.u64(100..300))).await;
        }
        self.faults.clear();
        if self.process.is_none() {
            self.begin_process();
        }
    }

    /// Has something begin or end to go wrong, or nothing.
    fn step(&mut self, world: &World<'_>) {
        let now = Instant::now();
        self.faults.retain(|(until, _)| now < *until && !world.is_quiet.get());
        if self.process.is_none() && now >= self.start {
            world.note("the provisioner is started".to_owned());
            self.begin_process();
        }
        // Those who have something in mind need it for longer than it would live.
        let kills_of_1000 = if world.truces.get() == 0 { 20 } else { 1 };
        if self.rng.u16(..1_000) < kills_of_1000 && self.process.is_some() {
            self.kills += 1;
            world.note("the provisioner is killed".to_owned());
            self.process.take().expect("a process").signal("KILL");
            self.start = now + Duration::from_millis(self.rng.u64(..2_000));
        }
        if self.rng.u8(..100) < 7 && self.faults.len() < 3 && !world.is_quiet.get() {
            let lasts = Duration::from_millis(self.rng.u64(200..4_000));
            let faults = self.faults(world, lasts);
            self.faults.extend(faults.into_iter().map(|fault| (now + lasts, fault)));
        }
    }

    fn faults(&mut self, world: &World<'_>, lasts: Duration) -> Vec<Fault> {
        let kind = KINDS[self.rng.usize(..KINDS.len())];
        let watches = move |asked: &Asked| asked.watches(kind);
        let lists = move |asked: &Asked| asked.is_watch() && asked.lists(kind);
        let chance = self.chance(30);
        let number = self.rng.u8(..12);
        world.note(format!("trouble {number} with {kind} for {lasts:?}"));
        let fault = match number {
            0 | 1 => self.proxy.fault(watches, Action::Freeze),
            2 => self.proxy.fault_of(1, watches, Action::Gone),
            3 => self.proxy.fault_of(1, Asked::is_watch, Action::Cut),
            4 => {
                // A list that takes its time.
                let time = Duration::from_millis(self.rng.u64(10..200));
                let slow = self.proxy.fault(lists, Action::Slowly(time));
                return vec![slow, self.proxy.fault_of(1, watches, Action::Gone)];
            }
            5 => {
                let Some(list) = self.old_list(world, kind, lasts) else { return Vec::new() };
                let stale = self.proxy.fault_of(1, lists, Action::Stale(list));
                return vec![stale, self.proxy.fault_of(1, watches, Action::Gone)];
            }
            6 => self.proxy.fault(move |asked| asked.method != "GET" && chance(), Action::LoseAnswer),
            7 => {
                let status = [403, 409, 429, 500, 503][self.rng.usize(..5)];
                self.proxy.fault(move |asked| !asked.is_watch() && chance(), Action::Refuse(status))
            }
            8 => {
                let time = Duration::from_millis(self.rng.u64(100..800));
                self.proxy.fault(move |asked| !asked.is_watch() && chance(), Action::Late(time))
            }
            9 => {
                let time = Duration::from_millis(self.rng.u64(100..1_500));
                self.proxy.fault(move |asked| !asked.is_watch() && chance(), Action::Delay(time))
            }
            10 => {
                let time = Duration::from_millis(self.rng.u64(100..1_500));
                self.proxy.fault(move |asked| !asked.is_watch() && chance(), Action::Overtaken(time))
            }
            _ => self.proxy.fault(move |asked| !asked.is_watch() && chance(), Action::Cut),
        };
        vec![fault]
    }

    /// A list that a watch is brought again though it is old.
    fn old_list(&self, world: &World<'_>, kind: &str, lasts: Duration) -> Option<Vec<hyper::body::Bytes>> {
        let list = self.proxy.recorded(kind)?;
        if kind == "persistentvolumeclaims" {
            // The watch of claims is believed when it says that there is no copy to be made.
            if world.copies_waiting.get() > 0 {
                return None;
            }
            world.stale_claims.set(Some(Instant::now() + lasts + Duration::from_secs(1)));
        }
        Some(list)
    }

    /// Something that is so with this many chances in a hundred.
    fn chance(&mut self, percent: u8) -> impl Fn() -> bool + Send + use<> {
        let rng = Mutex::new(self.rng.fork());
        move || rng.lock().u8(..100) < percent
    }

    /// Stops the provisioner. What all of them have logged, and whether this one ended well.
    pub(crate) fn stop(mut self) -> (String, bool) {
        let process = self.process.take().expect("a process");
        let log = process.log();
        (log, process.stop().success())
    }
}
