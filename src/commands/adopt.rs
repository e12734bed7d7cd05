//! `nfs-provisioner adopt`: directories that are there become volumes with claims, as after a cluster was rebuilt.
//!
//! Nothing on the export is touched but the notes. Without `--apply` the objects are printed, to be looked at and applied by hand.

use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, anyhow, bail};
use serde::Serialize;

use crate::background::notes::{self as background, ALIVE};
use crate::commands::inventory::Notes;
use crate::commands::revive::{Revival, Wish};
use crate::commands::session::Session;
use crate::decide::volume::located;
use crate::export::Export;
use crate::layout::{ClusterMark, Note};
use crate::ledger::{Entry, Ledger};
use crate::model::exports::{ExportId, Location};
use crate::model::volume::Volume;
use crate::values::names::VolumeName;
use crate::values::path::RelPath;

/// How long a cluster must have been silent to count as gone. Far longer than clocks of servers are wrong.
pub const SILENT: Duration = ALIVE.saturating_mul(12);

/// What is to be adopted, and how.
#[derive(Debug, Clone)]
pub struct Order {
    /// The directory, or all that are noted.
    pub directory: Option<String>,
    /// The name of the export, if it is said.
    pub export: Option<String>,
    /// What is to be otherwise than noted.
    pub wish: Wish,
    /// The mark of the cluster whose notes count, if it is said.
    pub cluster: Option<String>,
    /// Whether to make the objects.
    pub apply: bool,
}

/// What came of each directory.
#[derive(Debug, Default)]
struct Tally {
    done: usize,
    /// How many were left because their claims had gone before.
    left: usize,
    /// What needs a person, in words.
    refused: Vec<String>,
}

/// Writes an object as a document of YAML.
///
/// # Errors
/// If it cannot be written.
pub fn manifest(object: &impl Serialize) -> Result<String> {
    let value = serde_json::to_value(object)?;
    Ok(serde_saphyr::to_string(&value)?)
}

/// Adopts one directory, or all that a cluster that is gone has noted.
///
/// # Errors
/// Says what stands in the way, and what to do. What can be adopted is, whatever keeps others from it.
pub async fn adopt(session: &Session, order: &Order) -> Result<()> {
    let mut ledger = session.ledger().await?;
    let mut tally = Tally::default();
    match &order.directory {
        Some(directory) => one(session, order, directory, &mut ledger, &mut tally).await?,
        None => all(session, order, &mut ledger, &mut tally).await?,
    }
    for words in &tally.refused {
        writeln!(std::io::stderr(), "not adopted: {words}")?;
    }
    let (done, refused) = (tally.done, tally.refused.len());
    if order.apply {
        writeln!(std::io::stderr(), "directories adopted: {done}")?;
    } else if done > 0 {
        writeln!(
            std::io::stderr(),
            "directories that can be adopted: {done}. Apply these objects, or run this with --apply"
        )?;
    }
    if tally.left > 0 {
        let left = tally.left;
        writeln!(
            std::io::stderr(),
            "left alone, because their claims had been deleted: {left}. Adopt them by name"
        )?;
    }
    if refused > 0 {
        bail!("directories that were not adopted: {refused}");
    }
    Ok(())
}

async fn one(
    session: &Session,
    order: &Order,
    directory: &str,
    ledger: &mut Ledger,
    tally: &mut Tally,
) -> Result<()> {
    let path = RelPath::parse(directory).with_context(|| format!("{directory:?} is no directory of an export"))?;
    let mut found = Vec::new();
    for (id, export) in session.chosen(order.export.as_deref())? {
        if export.storage.look(&path).await?.is_some() {
            found.push(id);
        }
    }
    let id = match *found {
        [] => bail!("there is no directory {directory:?} on the export"),
        [id] => id,
        _ => bail!("several exports have a directory {directory:?}: say which by --export"),
    };
    let note = noted(session, order, session.exports.get(id), &path).await?;
    take(session, order, id, &path, note.as_ref(), ledger).await?;
    tally.done += 1;
    Ok(())
}

/// Finds the note of a directory. Those of another cluster count if that is silent, or was said to be gone.
///
/// # Errors
/// If another cluster may have the directory, or several claims are noted for it.
async fn noted(session: &Session, order: &Order, export: &Export, path: &RelPath) -> Result<Option<Note>> {
    let found = Notes::find(&export.storage, &session.mark).await?;
    if found.is_partial && order.cluster.is_none() {
        bail!(
            "other clusters may have notes on the export that cannot be read: say by --cluster which one is gone"
        );
    }
    let mut notes = Vec::new();
    for mark in found.marks {
        let mut unread = Tally::default();
        let of_path: Vec<_> = each_note(export, &mark, &mut unread).await?;
        let of_path: Vec<_> = of_path.into_iter().filter(|note| note.directory == *path).collect();
        let is_own = mark == session.mark && mark.is_known();
        let is_none_theirs = is_own || (of_path.is_empty() && unread.refused.is_empty());
        if !is_none_theirs && order.cluster.as_deref() != Some(mark.as_str()) {
            is_silent(export, &mark).await?;
        }
        notes.extend(of_path);
    }
    let live = notes.iter().filter(|note| note.released.is_none());
    let of_claims: HashSet<_> = live.map(whose).collect();
    if of_claims.len() > 1 && order.wish.claim.is_none() {
        bail!("several claims are noted for it: say by --as NAMESPACE/CLAIM which one is to have it");
    }
    // What a claim has left there counts if no claim has it.
    notes.sort_by_key(|note| note.released.is_some());
    Ok(notes.into_iter().next())
}

/// Returns the claim that a note names.
fn whose(note: &Note) -> (Option<Box<str>>, Option<Box<str>>) {
    (note.namespace.clone(), note.claim.clone())
}

/// Reads all notes of a cluster's volumes on an export. What is no note that we can read is noted as refused.
async fn each_note(export: &Export, mark: &ClusterMark, tally: &mut Tally) -> Result<Vec<Note>> {
    let mut notes = Vec::new();
    for volume in background::noted(&export.storage, mark).await? {
        match export.storage.note_of_volume(mark, &volume).await {
            Ok(Some(Ok(note))) => notes.push(note),
            Ok(Some(Err(error))) => tally.refused.push(format!("the note of the volume {volume} {error}")),
            Ok(None) => {}
            Err(error) => tally.refused.push(format!("the note of the volume {volume}: {error}")),
        }
    }
    Ok(notes)
}

/// Adopts what the notes of a cluster that is gone tell of, but for what claims had left behind. A claim has one volume,
/// and a directory one claim: what is noted otherwise is for a person to decide.
async fn all(session: &Session, order: &Order, ledger: &mut Ledger, tally: &mut Tally) -> Result<()> {
    let mut notes = Vec::new();
    for (id, export) in session.chosen(order.export.as_deref())? {
        let read = match source(session, export, order.cluster.as_deref()).await {
            Ok(Some(mark)) => each_note(export, &mark, tally).await,
            Ok(None) => continue,
            Err(error) => Err(error),
        };
        match read {
            Ok(read) => notes.extend(read.into_iter().map(|note| (id, note))),
            Err(error) => tally.refused.push(format!("the export {}: {error:#}", export.name)),
        }
    }
    let is_ours = |note: &Note| note.provisioner.as_deref().is_none_or(|name| name == session.provisioner);
    notes.retain(|(_, note)| is_ours(note));
    let (left, notes): (Vec<_>, Vec<_>) = notes.into_iter().partition(|(_, note)| note.released.is_some());
    tally.left = left.len();
    let (mut of_claim, mut of_place) = (HashMap::new(), HashMap::new());
    for (id, note) in &notes {
        *of_claim.entry(whose(note)).or_insert(0_usize) += 1;
        *of_place.entry((*id, note.directory.clone())).or_insert(0_usize) += 1;
    }
    let offered = offered(session).await?;
    for (id, note) in &notes {
        // One that is adopted already, by an earlier run or by hand. Where a run was cut, the claim lacks.
        let volume = VolumeName::from(&*note.volume);
        if ledger.exists(&volume) && !offered.contains(&volume) {
            continue;
        }
        let path = &note.directory;
        let taken = if of_claim.get(&whose(note)) > Some(&1) {
            Err(anyhow!("several directories are noted as this claim's: adopt the right one by its name"))
        } else if of_place.get(&(*id, path.clone())) > Some(&1) {
            Err(anyhow!("several claims are noted for it: adopt it by its name, for one of them by --as"))
        } else {
            take(session, order, *id, path, Some(note), ledger).await
        };
        match taken {
            Ok(()) => tally.done += 1,
            Err(error) => {
                let claim = whose(note);
                let (namespace, claim) = (claim.0.unwrap_or_default(), claim.1.unwrap_or_default());
                tally.refused.push(format!("{path} ({namespace}/{claim}): {error:#}"));
            }
        }
    }
    if tally.done == 0 && tally.refused.is_empty() {
        writeln!(
            std::io::stderr(),
            "nothing is to be adopted: no cluster that is gone has notes of other volumes"
        )?;
    }
    Ok(())
}

/// Lists the volumes that were made for a claim of some name, and that no claim has had yet.
async fn offered(session: &Session) -> Result<HashSet<VolumeName>> {
    let mut offered = HashSet::new();
    let learn = |volume: Volume| {
        if volume.claim.is_some() && volume.own_claim().is_none() && volume.is_of(&session.provisioner) {
            offered.insert(volume.name);
        }
    };
    session.cluster.volumes(learn).await?;
    Ok(offered)
}

/// Finds the cluster whose notes count: the one that was said, else the only other one, if it is silent.
async fn source(session: &Session, export: &Export, said: Option<&str>) -> Result<Option<ClusterMark>> {
    if let Some(said) = said {
        return ClusterMark::parse(said).map(Some).ok_or_else(|| anyhow!("{said:?} is not the mark of a cluster"));
    }
    let mut others = Vec::new();
    for mark in Notes::find(&export.storage, &session.mark).await?.marks {
        // One without notes has nothing to be adopted.
        if mark != session.mark && !background::noted(&export.storage, &mark).await?.is_empty() {
            others.push(mark);
        }
    }
    match &*others {
        [] => Ok(None),
        [mark] => is_silent(export, mark).await.map(|()| Some(mark.clone())),
        several => {
            let marks: Vec<_> = several.iter().map(ClusterMark::as_str).collect();
            bail!(
                "several clusters have notes on it: {}. Say by --cluster which one is gone; the others may be at work, and \
                 their volumes are theirs",
                marks.join(", ")
            );
        }
    }
}

/// Makes sure that a cluster has not been at work on an export of late.
async fn is_silent(export: &Export, mark: &ClusterMark) -> Result<()> {
    let last = export.storage.last_alive(mark).await?;
    let silent = last.and_then(|last| SystemTime::now().duration_since(last).ok()).unwrap_or_default();
    if silent < SILENT {
        bail!(
            "the cluster {mark} was at work on the export {} {} minutes ago: if it is gone, wait until that is {} minutes, or \
             say so by --cluster {mark}. Two clusters must not have the same volumes",
            export.name,
            silent.as_secs() / 60,
            SILENT.as_secs() / 60
        );
    }
    Ok(())
}

/// Prints the objects for a directory, or makes them.
async fn take(
    session: &Session,
    order: &Order,
    id: ExportId,
    path: &RelPath,
    note: Option<&Note>,
    ledger: &Ledger,
) -> Result<()> {
    let export = session.exports.get(id);
    if export.storage.look(path).await?.is_none() {
        bail!("the directory is not there any more");
    }
    let class = Revival::class_of(note, &order.wish);
    let class = session.cluster.class(&(&*class).into()).await?;
    let class = class.filter(|class| class.is_of(&session.provisioner));
    let revival = Revival::new(path, &export.address, note, &order.wish, class.as_ref(), &session.provisioner);
    let revival = revival.map_err(anyhow::Error::msg)?;
    let (volume, at) = ((&*revival.volume).into(), Location { export: id, path: path.clone() });
    let made = session.cluster.volume(&volume).await?;
    if made.as_ref().is_some_and(|made| !is_made_for(made, &revival, &at, session)) {
        bail!("there is a volume {volume} already");
    }
    if !ledger.is_alone(&volume, &at) {
        bail!("another volume has this directory, one above it or one in it");
    }
    let (namespace, claim) = (&revival.namespace, &revival.claim);
    let has_claim = match session.cluster.named_by_claim(namespace, claim).await? {
        Some(Some(named)) if named == volume => true,
        Some(_) => {
            bail!("there is a claim {namespace}/{claim} already, with another volume or none: delete it first")
        }
        None => false,
    };
    if made.is_some() && has_claim {
        // An earlier run was complete, but the claim is not bound yet.
        return Ok(());
    }
    if order.apply {
        // Before the volume is made, so that other clusters see that it is somebody's.
        let noted = revival.note(note, &at, &session.mark);
        export.storage.record(&session.mark, noted).await.context("the volume's note cannot be written")?;
        make(session, &revival, made.is_some()).await?;
    } else {
        let volume = revival.volume_object(revival.policy, None);
        let volume = made.is_none().then(|| manifest(&volume)).transpose()?;
        let claim = (!has_claim).then(|| manifest(&revival.claim_object())).transpose()?;
        for object in volume.into_iter().chain(claim) {
            write!(std::io::stdout(), "---\n{object}")?;
        }
    }
    // The next directory is not to lie in this one.
    ledger.settle(&volume, Entry { at: Some(&at), namespace: None, bytes: 0, gid: None });
    Ok(())
}

/// Tells whether a volume is what an earlier run has made for a directory and its claim, which it has not had yet.
fn is_made_for(made: &Volume, revival: &Revival, at: &Location, session: &Session) -> bool {
    let named = made.claim.as_ref().map(|claim| (&*claim.namespace, &*claim.name));
    made.own_claim().is_none()
        && named == Some((&*revival.namespace, &*revival.claim))
        && located(made, &session.served).is_ok_and(|there| there == *at)
}

/// Makes the volume, unless an earlier run has, then the claim. A claim that cannot be made is printed.
async fn make(session: &Session, revival: &Revival, is_made: bool) -> Result<()> {
    let claim = revival.claim_object();
    if !is_made && !session.cluster.create_as_spelled(&revival.volume_object(revival.policy, None)).await? {
        bail!("there is a volume {} already", revival.volume);
    }
    match session.cluster.create_claim(&claim, false).await {
        Ok(()) => Ok(()),
        Err(error) if error.is_already_exists() => Ok(()),
        Err(error) => {
            write!(std::io::stdout(), "---\n{}", manifest(&claim)?)?;
            Err(error).context("the volume is made, but not its claim, which is printed: apply it")
        }
    }
}
