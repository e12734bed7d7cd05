//! `nfs-provisioner rehome`: has volumes point at another server or path, by making them anew.
//!
//! As everywhere: **read** the volumes and who uses them (`steps.rs`), **plan** without I/O what is to be done
//! (`plan.rs`), and do it step by step, each decided on what is there (`keeper.rs`). All volumes of a run go through a
//! stage before any goes on to the next one: none is reclaimed by anybody until all of them are at the new address, so
//! that a directory which several have is not given up by one while another is away.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use tracing::{error, info, warn};

use crate::cluster::connect::{Connection, connection};
use crate::cluster::permissions::{Permission, listed, missing};
use crate::config::Rehome;
use crate::model::exports::Exports;
use crate::model::volume::{NfsSource, Volume};

mod keeper;
mod plan;
mod steps;

use keeper::{Keeper, Object, Stage, is_keeper, keeper_name, other_finalizer, volume_of};
use plan::{Line, Move, Obstacle, Pods, Seen, at_from, is_of_class, namespaces, table, used};
use steps::{Trouble, Volumes};

/// The permissions without which nothing is begun.
const NEEDED: &[Permission] = &[
    Permission { verb: "get", group: "", resource: "persistentvolumes" },
    Permission { verb: "list", group: "", resource: "persistentvolumes" },
    Permission { verb: "create", group: "", resource: "persistentvolumes" },
    Permission { verb: "patch", group: "", resource: "persistentvolumes" },
    Permission { verb: "delete", group: "", resource: "persistentvolumes" },
    Permission { verb: "list", group: "", resource: "persistentvolumeclaims" },
];

/// What is asked for, by whom.
#[derive(Debug, Clone)]
pub struct Wish {
    /// What was typed.
    pub request: Rehome,
    /// The name of the provisioner whose volumes are meant.
    pub provisioner: String,
    /// The exports that the provisioner serves, if that is known here.
    pub exports: Option<Exports>,
}

/// A volume that an earlier run has begun with.
struct Begun {
    keeper: Box<Keeper>,
    obstacle: Option<Obstacle>,
}

/// All that is to be done.
struct Work {
    begun: Vec<Begun>,
    moves: Vec<Move>,
}

/// Prints the plan to `out`, and carries it out if that is asked for. Returns whether nothing stands in the way of any
/// volume, and, if it was carried out, all are done.
///
/// No file is copied. A volume's claim stays as it is. May be cut at any point: what was begun is finished by the next
/// run, whatever that one asks for. Two runs at the same time do no harm.
///
/// # Errors
/// Returns an error if the addresses cannot be meant, a permission is missing, the API server refuses, or a volume
/// cannot be finished; then none that was begun is ever reclaimed until a later run has finished all of them.
pub async fn rehome(wish: &Wish, kubeconfig: Option<&Path>, out: &mut impl Write) -> Result<bool> {
    let Rehome { from, to, yes, .. } = &wish.request;
    if from == to {
        bail!("--from and --to are the same, {from}: name the new address in --to");
    }
    if from.overlaps(to) {
        bail!(
            "--from {from} and --to {to} lie in each other, so a second run could not tell what has been moved: go by an \
             address in between that is in neither, with all Pods stopped"
        );
    }
    let Connection { client, .. } = connection(kubeconfig).await?;
    let missing = missing(&client, NEEDED, None).await?;
    if !missing.is_empty() {
        bail!("not allowed: {}. Grant it, as rbac/rbac.yaml does", listed(&missing));
    }
    let mut volumes = Volumes::new(client, &wish.provisioner);
    let work = read(&volumes, wish).await?;
    out.write_all(work.print(wish).as_bytes())?;
    if work.is_empty() {
        return Ok(true);
    }
    work.warn(wish);
    if *yes {
        carry_out(&mut volumes, &work).await?;
    }
    Ok(work.is_free())
}

/// Reads the volumes and who uses them, and plans.
async fn read(volumes: &Volumes, wish: &Wish) -> Result<Work> {
    let Wish { request, provisioner, .. } = wish;
    let mut all: Vec<Sorted> = Vec::new();
    volumes.all(|object| all.push(sorted(&object))).await?;
    let (mut seen, mut keepers) = (BTreeMap::new(), Vec::new());
    for each in all {
        match each {
            Sorted::Volume(volume) => drop(seen.insert(volume.volume.name.clone(), *volume)),
            Sorted::Keeper(keeper) if keeper.is_of(provisioner) => keepers.push(keeper),
            Sorted::Keeper(_) | Sorted::Gone => {}
        }
    }
    // What was begun goes on by its keeper. Until the old volume is deleted, Pods may stand in the way.
    let begun: Vec<(Box<Keeper>, Option<Volume>)> = keepers
        .into_iter()
        .map(|keeper| {
            let now = seen.remove(keeper.of()).map(|seen| seen.volume);
            let old = now.filter(|now| !now.deleting && keeper.is_old(now));
            (keeper, old)
        })
        .collect();
    let seen: Vec<Seen> = seen.into_values().collect();
    let meant = at_from(&seen, provisioner, request).map(|seen| &seen.volume);
    let meant = meant.filter(|volume| is_of_class(volume, request));
    let looked_at = meant.chain(begun.iter().filter_map(|(_, old)| old.as_ref()));
    let mut pods = Pods::new();
    for namespace in namespaces(looked_at.filter(|_| !request.in_use)) {
        let users = volumes.users(&namespace).await?;
        pods.insert(namespace, users);
    }
    let begun = begun.into_iter().map(|(keeper, old)| {
        let obstacle = old.and_then(|old| used(&old, &pods, request));
        Begun { keeper, obstacle }
    });
    Ok(Work { begun: begun.collect(), moves: plan::plan(&seen, &pods, provisioner, request) })
}

/// What a volume is to this command.
enum Sorted {
    Volume(Box<Seen>),
    Keeper(Box<Keeper>),
    /// A keeper that is being deleted, or something that cannot be read.
    Gone,
}

fn sorted(object: &Object) -> Sorted {
    let name = object.metadata.name.as_deref().unwrap_or_default();
    if !is_keeper(object) {
        let other_finalizer = other_finalizer(&object.metadata).map(Into::into);
        return match volume_of(object) {
            Ok(volume) => Sorted::Volume(Box::new(Seen { volume, other_finalizer })),
            Err(error) => {
                warn!(volume = name, %error, "the volume cannot be read, and is left alone");
                Sorted::Gone
            }
        };
    }
    match Keeper::read(object) {
        Ok(_) if object.metadata.deletion_timestamp.is_some() => Sorted::Gone,
        Ok(keeper) => Sorted::Keeper(Box::new(keeper)),
        Err(words) => {
            warn!(volume = name, "the volume is marked as a keeper and is none, so it is left alone: {words}");
            Sorted::Gone
        }
    }
}

impl Work {
    fn is_empty(&self) -> bool {
        self.begun.is_empty() && self.moves.is_empty()
    }

    /// Tells whether nothing stands in the way of any volume.
    fn is_free(&self) -> bool {
        let obstacles = self.moves.iter().map(|each| &each.obstacle);
        obstacles.chain(self.begun.iter().map(|begun| &begun.obstacle)).all(Option::is_none)
    }

    /// Prints a line for each volume, and how many there are.
    fn print(&self, wish: &Wish) -> String {
        let Wish { request, provisioner, .. } = wish;
        if self.is_empty() {
            return format!(
                "No volume of the provisioner {provisioner} lies at {} or beneath it.\n",
                request.from
            );
        }
        let note = |obstacle: &Option<Obstacle>| obstacle.as_ref().map(ToString::to_string);
        let begun = self.begun.iter().filter_map(|Begun { keeper, obstacle }| {
            let note =
                note(obstacle).unwrap_or_else(|| "nothing: it was begun before, and is finished".to_owned());
            Some(Line::new(&volume_of(&keeper.old).ok()?, Some(&keeper.to), &note))
        });
        let moves = self.moves.iter().map(|Move { volume, to, obstacle }| {
            Line::new(volume, to.as_ref(), &note(obstacle).unwrap_or_else(|| "nothing".to_owned()))
        });
        let lines: Vec<Line> = begun.chain(moves).collect();
        let obstacles = self.moves.iter().map(|each| &each.obstacle);
        let stay = obstacles.chain(self.begun.iter().map(|begun| &begun.obstacle)).flatten().count();
        let go = lines.len() - stay;
        let end = if request.yes {
            format!("{go} volumes are made anew, {stay} stay as they are.")
        } else {
            format!("{go} volumes would be made anew, {stay} would stay. Nothing was done: --yes does it.")
        };
        format!("{}{end}\n", table(&lines))
    }

    /// Warns of volumes at addresses that the provisioner does not serve.
    fn warn(&self, Wish { request, exports, .. }: &Wish) {
        let Some(exports) = exports else {
            info!(
                "which exports the provisioner serves is not known here: it reclaims no volume at {} unless its settings \
                 name an export there",
                request.to
            );
            return;
        };
        let targets = self.moves.iter().filter_map(|each| each.to.as_ref());
        let targets = targets.chain(self.begun.iter().map(|begun| &begun.keeper.to));
        let is_served = |to: &NfsSource| exports.locate(&to.server, &to.path).is_ok();
        if targets.filter(|to| !is_served(to)).count() > 0 {
            warn!(
                "{} is at none of the exports that are set ({exports}): the provisioner reclaims none of these volumes until \
                 its settings name the new address",
                request.to
            );
        }
    }
}

/// Carries the plan out, a stage after the other.
async fn carry_out(volumes: &mut Volumes, work: &Work) -> Result<()> {
    let mut run = Run::default();
    for Begun { keeper, obstacle } in &work.begun {
        match obstacle {
            Some(obstacle) => run.stuck(keeper.of(), &obstacle.to_string()),
            None => run.going.push((keeper.volume.name.to_string(), keeper.of().to_owned())),
        }
    }
    for Move { volume, to, obstacle } in &work.moves {
        let (Some(to), None) = (to, obstacle) else { continue };
        let kept = volumes.keep(volume, to).await;
        if run.went(volume.name.as_str(), kept)? {
            run.going.push((keeper_name(volume.name.as_str()), volume.name.to_string()));
        }
    }
    run.to(volumes, Stage::Ready).await?;
    run.to(volumes, Stage::Replaced).await?;
    volumes.begin_to_settle();
    for (keeper, volume) in run.going.clone() {
        let settled = volumes.settle(&keeper).await;
        run.went(&volume, settled)?;
    }
    run.is_well()?;
    run.to(volumes, Stage::Restored).await?;
    run.to(volumes, Stage::Done).await?;
    run.is_well()?;
    info!("made {} volumes anew", run.going.len());
    Ok(())
}

/// A run, as far as it has come.
struct Run {
    /// The keepers and their volumes that go on.
    going: Vec<(String, String)>,
    is_well: bool,
}

impl Default for Run {
    fn default() -> Self {
        Self { going: Vec::new(), is_well: true }
    }
}

impl Run {
    /// Brings all volumes to a stage. One that is stuck does not go on.
    async fn to(&mut self, volumes: &Volumes, stage: Stage) -> Result<()> {
        for (keeper, volume) in std::mem::take(&mut self.going) {
            let advanced = volumes.advance(&keeper, stage).await;
            if self.went(&volume, advanced)? {
                self.going.push((keeper, volume));
            }
        }
        Ok(())
    }

    /// Tells whether a volume can go on.
    fn went(&mut self, volume: &str, result: Result<(), Trouble>) -> Result<bool> {
        match result {
            Ok(()) => Ok(true),
            Err(Trouble::Stuck(words)) => {
                self.stuck(volume, &words);
                Ok(false)
            }
            Err(Trouble::Api(error)) => Err(error).with_context(|| {
                format!("the volume {volume} is not finished, and nothing is lost: run this again, and it goes on")
            }),
        }
    }

    /// Returns an error if any volume is stuck.
    fn is_well(&self) -> Result<()> {
        if self.is_well {
            return Ok(());
        }
        bail!(
            "not all volumes could be finished, see above. No data is lost; the volumes that were begun with have the \
             policy Retain until all of them are finished. Mend what is wrong, and run this again"
        )
    }

    fn stuck(&mut self, volume: &str, words: &str) {
        self.is_well = false;
        error!(volume, "the volume cannot be finished: {words}");
    }
}
