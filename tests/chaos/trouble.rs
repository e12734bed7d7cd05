//! What goes wrong, at random: the way to the API server, and the provisioner itself.

use std::time::{Duration, Instant};

use fastrand::Rng;
use parking_lot::Mutex;

use crate::support::process::Process;
use crate::support::proxy::{Action, Asked, Fault, Proxy};
use crate::support::space::Space;

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
    pub(crate) fn new(space: &'a Space, proxy: &'a Proxy, seed: u64) -> Self {
        let start = Instant::now();
        let rng = Rng::with_seed(seed ^ 0x7ab1e);
        Self { space, proxy, rng, faults: Vec::new(), process: None, start, kills: 0 }
    }

    fn begin_process(&mut self) {
        let mut settings = self.space.settings_through(self.proxy);
        // The lock of one that was killed would have to be waited for.
        settings.environment.push(("ENABLE_LEADER_ELECTION".to_owned(), "false".to_owned()));
        self.process = Some(Process::start(&settings));
    }

    /// Has something begin or end to go wrong, or nothing.
    pub(crate) fn step(&mut self) {
        let now = Instant::now();
        self.faults.retain(|(until, _)| now < *until);
        if self.process.is_none() && now >= self.start {
            self.begin_process();
        }
        if self.rng.u8(..100) < 2 && self.process.is_some() {
            self.kills += 1;
            self.process.take().expect("a process").signal("KILL");
            self.start = now + Duration::from_millis(self.rng.u64(..3_000));
        }
        if self.rng.u8(..100) < 8 && self.faults.len() < 3 {
            let faults = self.faults();
            let until = now + Duration::from_millis(self.rng.u64(200..8_000));
            self.faults.extend(faults.into_iter().map(|fault| (until, fault)));
        }
    }

    fn faults(&mut self) -> Vec<Fault> {
        let kind = KINDS[self.rng.usize(..KINDS.len())];
        let watches = move |asked: &Asked| asked.watches(kind);
        let lists = move |asked: &Asked| asked.is_watch() && asked.lists(kind);
        let chance = self.chance(30);
        let fault = match self.rng.u8(..10) {
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
                let Some(list) = self.proxy.recorded(kind) else { return Vec::new() };
                let stale = self.proxy.fault_of(1, lists, Action::Stale(list));
                return vec![stale, self.proxy.fault_of(1, watches, Action::Gone)];
            }
            6 => self.proxy.fault(move |asked| asked.method != "GET" && chance(), Action::LoseAnswer),
            7 => {
                let status = [403, 409, 429, 500, 503][self.rng.usize(..5)];
                self.proxy.fault(move |asked| !asked.is_watch() && chance(), Action::Refuse(status))
            }
            8 => {
                let time = Duration::from_millis(self.rng.u64(100..1_500));
                self.proxy.fault(move |asked| !asked.is_watch() && chance(), Action::Late(time))
            }
            _ => self.proxy.fault(move |asked| !asked.is_watch() && chance(), Action::Cut),
        };
        vec![fault]
    }

    /// Something that is so with this many chances in a hundred.
    fn chance(&mut self, percent: u8) -> impl Fn() -> bool + Send + use<> {
        let rng = Mutex::new(self.rng.fork());
        move || rng.lock().u8(..100) < percent
    }

    /// All goes well from now on.
    pub(crate) fn end(&mut self) {
        self.faults.clear();
        if self.process.is_none() {
            self.begin_process();
        }
    }

    /// Stops the provisioner. What all of them have logged, and whether this one ended well.
    pub(crate) fn stop(mut self) -> (String, bool) {
        let process = self.process.take().expect("a process");
        let log = process.log();
        (log, process.stop().success())
    }
}
