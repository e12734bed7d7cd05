//! What goes wrong together: each of these is about one thing that must never happen, and has all go wrong that would
//! make it happen if the provisioner did not take care.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use fastrand::Rng;
use kube::api::DeleteParams;
use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::checker::Promise;
use crate::journal::now;
use crate::support::proxy::{Action, Fault, Proxy};
use crate::world::{OneClaim, World};

/// How long it takes until other volumes that the watch does not show are looked for at the latest, and a little more.
const UNSEEN: Duration = Duration::from_millis(13_700);

/// How many directories cannot be moved at a time.
const BLOCKED: usize = 8;

/// For how many claims a directory is made in vain at a time.
const UNWANTED: usize = 3;

/// A directory that cannot be moved, and nothing in it be changed, until this is dropped.
struct Blocked(PathBuf);

impl Blocked {
    /// None where the file system, or who runs this, cannot.
    fn new(path: PathBuf) -> Option<Self> {
        set_immutable(&path, true).then_some(Self(path))
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        set_immutable(&self.0, false);
    }
}

fn set_immutable(path: &Path, is_so: bool) -> bool {
    let set = || {
        let directory = File::open(path).ok()?;
        let mut flags = ioctl_getflags(&directory).ok()?;
        flags.set(IFlags::IMMUTABLE, is_so);
        ioctl_setflags(&directory, flags).ok()
    };
    set().is_some()
}

/// A volume whose claim has gone, and whose directory cannot be moved for now.
struct Released {
    number: usize,
    volume: String,
    path: String,
    block: Option<Blocked>,
}

/// Waits until it is so long since then.
async fn until(begun: Instant, time: Duration) {
    sleep(time.saturating_sub(begun.elapsed())).await;
}

/// The controller manager, standing still until this is dropped.
struct Paused(Vec<String>);

impl Paused {
    fn new(plane: &Path) -> Self {
        let (plane, name) = (plane.display().to_string(), "kube-controller-manager");
        let is_it = |pid: &String| {
            let arguments = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            arguments.split('\0').nth(1) == Some(name) && arguments.contains(&plane)
        };
        let all = fs::read_dir("/proc").expect("processes").flatten();
        let found = all.map(|entry| entry.file_name().to_string_lossy().into_owned()).filter(is_it).collect();
        let paused = Self(found);
        paused.signal("STOP");
        paused
    }

    fn signal(&self, signal: &str) {
        for pid in &self.0 {
            let _ = Command::new("kill").args(["-s", signal, pid]).status();
        }
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        self.signal("CONT");
    }
}

pub(crate) struct Plots<'a> {
    pub(crate) world: &'a World<'a>,
    pub(crate) proxy: &'a Proxy,
}

/// Keeps the provisioner from being killed until this is dropped.
struct Truce<'a>(&'a World<'a>);

impl Drop for Truce<'_> {
    fn drop(&mut self) {
        self.0.truces.set(self.0.truces.get() - 1);
    }
}

impl<'a> Plots<'a> {
    /// Has the watch of volumes fall silent, again and again, until all ends.
    pub(crate) async fn silence(&self, mut rng: Rng) {
        let mut turn = rng.usize(..3);
        while !self.world.has_ended.get() {
            sleep(Duration::from_millis(rng.u64(..1_000))).await;
            // So that there is something to be silent about.
            let fits =
                |claim: &&OneClaim| !claim.deleted && !claim.is_busy && claim.has.is_some() && claim.is_alone();
            if self.world.seen().claims.iter().filter(fits).count() < BLOCKED / 2 {
                continue;
            }
            let _truce = self.truce(&mut rng);
            match turn % 3 {
                0 => self.minds_changed_unseen(&mut rng).await,
                1 => self.shared_unseen(&mut rng).await,
                _ => self.unwanted_shared_unseen(&mut rng).await,
            }
            turn += 1;
        }
    }

    /// Carries out the other plots, one after the other, until all ends.
    pub(crate) async fn others(&self, mut rng: Rng) {
        while !self.world.has_ended.get() {
            sleep(Duration::from_millis(rng.u64(..2_000))).await;
            match rng.u8(..5) {
                0 => self.by_hand_at_the_path_of_one_that_stays(&mut rng).await,
                1 => self.made_again(&mut rng).await,
                2 => self.copied(&mut rng).await,
                3 => self.taken_away(&mut rng).await,
                _ => self.in_the_way(&mut rng).await,
            }
        }
    }

    fn count(&self, plot: &'static str) {
        *self.world.seen().plots.entry(plot).or_default() += 1;
    }

    /// Mostly: some are killed all the same.
    fn truce(&self, rng: &mut Rng) -> Option<Truce<'a>> {
        let is_kept = rng.u8(..8) > 0;
        is_kept.then(|| {
            self.world.truces.set(self.world.truces.get() + 1);
            Truce(self.world)
        })
    }

    /// Waits until something is so, but not for long.
    async fn soon(&self, seconds: u64, is_so: impl AsyncFn() -> bool) -> bool {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(seconds) {
            if is_so().await {
                return true;
            }
            sleep(Duration::from_millis(50)).await;
        }
        false
    }

    /// Makes a claim that nobody else touches and waits until it was written in.
    async fn own(&self, rng: &mut Rng, class: &'static str, patch: Value) -> Option<(usize, String)> {
        let (namespace, id) = (&self.world.namespaces[rng.usize(..2)], rng.u64(..));
        let (name, path) = (format!("busy-{id}"), format!("own-{id}"));
        let number = self.world.make(namespace, &name, class, &path, patch).await?;
        let is_served = self.soon(15, async || self.world.claim(number).has.is_some()).await;
        let path = self.world.claim(number).has.map(|(_, path)| path);
        if !is_served {
            self.leave(number);
        }
        Some((number, path?))
    }

    /// Anybody may do anything with the claim from now on.
    fn leave(&self, number: usize) {
        self.world.seen().claims[number].is_busy = false;
    }

    async fn is_released(&self, volume: &str) -> bool {
        let found = self.world.space.volumes().get_opt(volume).await.ok().flatten();
        found.and_then(|volume| volume.status?.phase).is_some_and(|phase| phase == "Released")
    }

    /// Releases volumes whose directories cannot be moved for now, and then has the watch of volumes fall silent.
    async fn release_and_silence(
        &self,
        rng: &mut Rng,
        fits: impl Fn(&OneClaim) -> bool,
    ) -> (Vec<Released>, Fault) {
        let world = self.world;
        world.is_quiet.set(true);
        let mut released = Vec::new();
        for _ in 0..BLOCKED {
            let is_used = |claim: &OneClaim| !claim.deleted && claim.has.is_some() && fits(claim);
            let Some(number) = world.any_claim(rng, is_used) else { break };
            let (volume, path) = world.claim(number).has.expect("a directory");
            let Some(block) = Blocked::new(world.space.at(&path)) else { break };
            world.seen().claims[number].is_busy = true;
            released.push(Released { number, volume, path, block: Some(block) });
        }
        for Released { number, .. } in &released {
            world.delete(*number).await;
        }
        let are_released = async || {
            let all = released.iter().map(|released| self.is_released(&released.volume));
            futures::future::join_all(all).await.into_iter().all(|is_so| is_so)
        };
        self.soon(2, are_released).await;
        // Until each has been tried once.
        sleep(Duration::from_millis(700)).await;
        let silent = self.silent_watch();
        (released, silent)
    }

    fn silent_watch(&self) -> Fault {
        self.world.is_quiet.set(false);
        self.world.note("the watch of volumes is silent".to_owned());
        self.proxy.fault(|asked| asked.watches("persistentvolumes"), Action::Freeze)
    }

    fn end_silence(&self, silent: Fault) {
        drop(silent);
        self.world.end_sharing();
        self.world.note("the watch of volumes goes on".to_owned());
    }

    /// Directories that could not be moved can be moved while the watch of volumes is silent, after admins have changed
    /// their minds about them.
    async fn minds_changed_unseen(&self, rng: &mut Rng) {
        self.count("minds changed");
        let (mut released, silent) = self.release_and_silence(rng, |_| true).await;
        let begun = Instant::now();
        let paused = rng.bool().then(|| Paused::new(&self.world.space.plane.dir));
        for one in &mut released {
            self.change_mind(rng, &one.volume, &one.path).await;
            if rng.u8(..4) == 0 {
                // Changed at any time, before or after.
                one.block = None;
            }
        }
        until(begun, Duration::from_millis(3_500)).await;
        for one in released.iter_mut().step_by(2) {
            one.block = None;
        }
        until(begun, Duration::from_secs(9)).await;
        drop(paused);
        for one in released {
            self.leave(one.number);
        }
        self.end_silence(silent);
    }

    /// Directories that could not be moved can be moved while the watch of volumes is silent, long after other volumes
    /// were made there by hand.
    async fn shared_unseen(&self, rng: &mut Rng) {
        self.count("shared");
        let (mut released, silent) = self.release_and_silence(rng, OneClaim::is_alone).await;
        let begun = Instant::now();
        for one in &released {
            if rng.u8(..4) > 0 {
                self.world.share(rng, &one.path).await;
            }
        }
        until(begun, UNSEEN).await;
        for one in &mut released {
            one.block = None;
            self.leave(one.number);
        }
        // What has failed since the beginning is tried again 15 s later.
        until(begun, Duration::from_secs(19)).await;
        self.end_silence(silent);
    }

    /// What was made for claims that are not wanted any more has become other volumes' while the watch of volumes is
    /// silent.
    async fn unwanted_shared_unseen(&self, rng: &mut Rng) {
        self.count("unwanted");
        let mut unwanted = Vec::new();
        for _ in 0..UNWANTED {
            unwanted.extend(self.unwanted(rng).await);
        }
        let silent = self.silent_watch();
        let begun = Instant::now();
        for (_, path, _) in &unwanted {
            if rng.u8(..4) > 0 {
                self.world.share(rng, path).await;
            }
        }
        until(begun, UNSEEN).await;
        for (number, ..) in &unwanted {
            self.world.delete(*number).await;
            sleep(Duration::from_millis(500)).await;
        }
        self.end_silence(silent);
    }

    /// A claim for which a directory was made, and for which no volume can be made.
    async fn unwanted(&self, rng: &mut Rng) -> Option<(usize, String, Fault)> {
        let (id, namespace) = (rng.u64(..), self.world.namespaces[rng.usize(..2)].clone());
        let name = format!("busy-{id}");
        let text = format!("\"{name}\"");
        let refused = self.proxy.fault(
            move |asked| asked.makes("persistentvolumes") && asked.body.contains(&text),
            Action::Refuse(500),
        );
        let number = self.world.make(&namespace, &name, "shared", &format!("own-{id}"), json!({})).await?;
        let path = format!("{namespace}/shared/own-{id}");
        let is_made = self.soon(5, async || self.world.space.at(&path).exists()).await;
        if is_made {
            return Some((number, path, refused));
        }
        self.leave(number);
        None
    }

    /// An admin has something else done to a Released volume, or uses its directory.
    async fn change_mind(&self, rng: &mut Rng, volume: &str, path: &str) {
        let world = self.world;
        let is_common = path.starts_with("common/");
        let on_delete = |fate: &str| json!({"metadata": {"annotations": {"nfs-provisioner/on-delete": fate}}});
        let said = match rng.u8(..10) {
            0 | 1 => {
                world.patch_volume(volume, json!({"spec": {"persistentVolumeReclaimPolicy": "Retain"}})).await;
                "is to be kept"
            }
            2 if !is_common => {
                world.patch_volume(volume, on_delete("retain")).await;
                "is to have its directory left"
            }
            3 => {
                world.patch_volume(volume, on_delete("archive")).await;
                "is to be archived"
            }
            4 | 5 if !is_common => {
                world.give_away(volume.to_owned(), path.to_owned());
                world.patch_volume(volume, json!({"spec": {"claimRef": null}})).await;
                "may be anybody's"
            }
            6 if !is_common => {
                let has_one = |claim: &OneClaim| !claim.deleted && claim.has.is_some();
                let Some(number) = world.any_claim(rng, has_one) else { return };
                let claim = world.claim(number);
                // It must not go, so that the volume is not its any more.
                world.seen().claims[number].is_busy = true;
                world.give_away(volume.to_owned(), path.to_owned());
                let to = json!({"namespace": claim.namespace, "name": claim.name, "uid": claim.uid, "resourceVersion": null});
                world.patch_volume(volume, json!({"spec": {"claimRef": to}})).await;
                "is another claim's"
            }
            7 | 8 if !is_common => {
                world.share(rng, path).await;
                "has its directory shared"
            }
            _ => "is left",
        };
        world.note(format!("{volume} in {path} {said}"));
    }

    /// A volume whose directory was dealt with cannot be deleted, and somebody makes a directory in its place.
    async fn by_hand_at_the_path_of_one_that_stays(&self, rng: &mut Rng) {
        let class = ["shared", "saved"][rng.usize(..2)];
        let Some((number, path)) = self.own(rng, class, json!({})).await else { return };
        self.count("by hand");
        let (name, at) = (self.world.claim(number).volume(), self.world.space.at(&path));
        let stays = name.clone();
        let _stays =
            self.proxy.fault(move |asked| asked.deletes("persistentvolumes", &stays), Action::Refuse(500));
        self.world.delete(number).await;
        // The watch of volumes may be silent.
        if !self.soon(25, async || !at.exists()).await {
            return;
        }
        // What is done in the moment after it was dealt with may be taken for a part of that.
        sleep(Duration::from_millis(3_400)).await;
        if fs::create_dir_all(&at).is_ok() {
            self.world.note(format!("{path} of {name} was made by hand"));
            let _ = fs::write(at.join("by-hand"), "");
        }
        // Until it has been tried again.
        sleep(Duration::from_millis(rng.u64(4_000..9_000))).await;
    }

    /// An admin takes a volume away from a claim that goes on to exist, by force.
    async fn taken_away(&self, rng: &mut Rng) {
        let world = self.world;
        let fits = |claim: &OneClaim| !claim.deleted && claim.has.is_some() && claim.is_alone();
        let Some(number) = world.any_claim(rng, fits) else { return };
        self.count("taken away");
        world.seen().claims[number].is_busy = true;
        let (volume, path) = world.claim(number).has.expect("a directory");
        world.note(format!("{volume} in {path} is taken away from its claim"));
        let deleted = world.space.volumes().delete(&volume, &DeleteParams::default()).await;
        // Now and then before it is known to be deleted.
        sleep(Duration::from_millis(rng.u64(..1_000))).await;
        if deleted.is_ok() {
            world.patch_volume(&volume, json!({"metadata": {"finalizers": null}})).await;
        }
        sleep(Duration::from_millis(rng.u64(4_000..8_000))).await;
        self.leave(number);
    }

    /// A claim is made again before the volume of the earlier one is reclaimed.
    async fn made_again(&self, rng: &mut Rng) {
        let class = ["shared", "saved"][rng.usize(..2)];
        let Some((number, _)) = self.own(rng, class, json!({})).await else { return };
        self.count("made again");
        let claim = self.world.claim(number);
        let volume = claim.volume();
        let unread = self.proxy.fault(move |asked| asked.reads("persistentvolumes", &volume), Action::Refuse(500));
        self.world.delete(number).await;
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(3) {
            let made = self.world.make(&claim.namespace, &claim.name, class, &claim.path, json!({})).await;
            if let Some(made) = made {
                self.leave(made);
                break;
            }
            sleep(Duration::from_millis(20)).await;
        }
        sleep(Duration::from_millis(rng.u64(2_000..6_000))).await;
        drop(unread);
    }

    /// The source of a copy goes while the copy waits.
    async fn copied(&self, rng: &mut Rng) {
        let world = self.world;
        // What was asked for before must not be found missing.
        if world.stale_claims.get().is_some_and(|until| Instant::now() < until) {
            return;
        }
        world.copies_waiting.set(world.copies_waiting.get() + 1);
        self.copy(rng).await;
        world.copies_waiting.set(world.copies_waiting.get() - 1);
    }

    async fn copy(&self, rng: &mut Rng) {
        let world = self.world;
        let class = ["archive", "delete"][rng.usize(..2)];
        let Some((source, path)) = self.own(rng, class, json!({})).await else { return };
        self.count("copied");
        for number in 0..rng.usize(..200) {
            let _ = fs::write(world.space.at(&path).join(format!("file-{number}")), "content");
        }
        let claim = world.claim(source);
        let name = format!("busy-{}", rng.u64(..));
        let text = format!("\"{name}\"");
        let waits = self.proxy.fault(
            move |asked| asked.makes("persistentvolumes") && asked.body.contains(&text),
            Action::Refuse(500),
        );
        let patch = json!({"spec": {"dataSource": {"kind": "PersistentVolumeClaim", "name": claim.name}}});
        let Some(copy) = world.make(&claim.namespace, &name, "delete", &name, patch).await else { return };
        let is_accepted = async || !world.space.events(&name, "Provisioning").await.is_empty();
        if self.soon(10, is_accepted).await {
            let promise = Promise { claim: world.claim(copy).uid, path, since: now() };
            world.seen().promises.push(promise);
            let truce = self.truce(rng);
            world.delete(source).await;
            sleep(Duration::from_millis(rng.u64(1_000..6_000))).await;
            drop(truce);
        }
        drop(waits);
        self.soon(20, async || world.claim(copy).has.is_some()).await;
        self.leave(copy);
        self.leave(source);
    }

    /// Something that is no directory stands where claims are to have one; or nothing at the root can be changed.
    async fn in_the_way(&self, rng: &mut Rng) {
        let world = self.world;
        self.count("in the way");
        if rng.bool() {
            let blocked = Blocked::new(world.space.at(""));
            sleep(Duration::from_millis(rng.u64(500..3_000))).await;
            drop(blocked);
            return;
        }
        let namespace = &world.namespaces[rng.usize(..2)];
        let path = world.space.at(&format!("{namespace}/saved/{}", ["a", "b", "c"][rng.usize(..3)]));
        if File::options().write(true).create_new(true).open(&path).is_ok() {
            sleep(Duration::from_millis(rng.u64(500..3_000))).await;
            let _ = fs::remove_file(&path);
        }
    }
}
