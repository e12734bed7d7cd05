//! `nfs-provisioner archives restore` and `trash restore`: what was deleted becomes a volume with a claim again.
//!
//! The volume is made first, with the reclaim policy `Retain`, so that nothing takes its directory away; then the
//! directory is renamed back to its path; then the volume gets its policy, and the claim is made. A crash leaves a volume
//! that names what it was restored from, by which the next run knows how far this one came.

use std::io::Write;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use jiff::{SignedDuration, Timestamp};
use tokio::time::{Instant, sleep, timeout};
use tracing::info;

use crate::cluster::events::{Reason, Recorder};
use crate::cluster::permissions::{PROTECT, Permission, missing};
use crate::commands::inventory::{Item, Kind, Notes, by_name};
use crate::commands::revive::{Revival, Wish};
use crate::commands::session::Session;
use crate::decide::restore::KEPT_MARGIN;
use crate::decide::volume::located;
use crate::export::Export;
use crate::failpoint::Failpoint;
use crate::layout::{ARCHIVE_PREFIX, Note, NoteError, RootEntry, classify};
use crate::ledger::Ledger;
use crate::model::exports::{ExportId, Location};
use crate::model::volume::{Phase, ReclaimPolicy, Volume, annotation};
use crate::storage::{FoundNote, Seen};
use crate::values::path::RelPath;
use crate::values::time::BootTime;

/// How long a provisioner that works meanwhile may take to see the new volume, before anything is looked at that it could
/// be about to use.
const SETTLES: Duration = Duration::from_secs(2);

/// How long the claim may take to be bound, for the command to say so.
const BOUND_MAX: Duration = Duration::from_secs(30);

/// How long it may take from the last look at the cluster's volumes to the rename.
const PROOF_FOR: Duration = Duration::from_secs(10);

/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(250);

/// What is to be restored, and how.
#[derive(Debug, Clone)]
pub struct Order {
    /// An archive, or an entry of the trash.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// The name of the export, if it is said.
    pub export: Option<String>,
    /// What is to be otherwise than noted.
    pub wish: Wish,
    /// Whether only to say what would be done.
    pub dry_run: bool,
}

/// Where the directory is, or was before an earlier run.
struct Origin {
    id: ExportId,
    /// Where it lies; `None` if an earlier run has moved it.
    lies_at: Option<RelPath>,
    /// Where the volume's directory was, as far as the name tells.
    directory: Option<String>,
    note: Option<Note>,
    /// Until when it certainly lies there whole; for ever if there is no such time.
    kept_until: Option<Timestamp>,
    /// The volume that an earlier run has made.
    made: Option<Volume>,
}

/// Restores an archive, or a kept entry of the trash.
///
/// # Errors
/// Says what stands in the way, and what to do. Until the directory is moved, nothing is left of a run that fails; after
/// that, the next run goes on.
pub async fn restore(session: &Session, order: &Order) -> Result<()> {
    let origin = find(session, order).await?;
    let export = session.exports.get(origin.id);
    let revival = decide(session, order, &origin).await?;
    let at = Location { export: origin.id, path: revival.directory.clone() };
    let may_claim = check(session, &origin, &revival, &at).await?;
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{}: to {} on the export {}, as the volume {} of the claim {}/{}",
        order.name, revival.directory, export.name, revival.volume, revival.namespace, revival.claim
    )?;
    if order.dry_run {
        writeln!(out, "nothing is done: --dry-run")?;
        return Ok(());
    }
    let volume = make_volume(session, &origin, &revival, &order.name).await?;
    if let Some(from) = &origin.lies_at
        && let Err(error) = bring_back(session, &origin, from, &revival, &at).await
    {
        if origin.made.is_none() && !is_another_runs(session, &origin, from, &revival, &at).await {
            // It was made a moment ago, with no claim and nothing to reclaim.
            let _ = session.cluster.delete_volume(&volume).await;
            let _ = timeout(PROOF_FOR, forget_note(session, order, &origin, &volume)).await;
        }
        return Err(error);
    }
    Failpoint::DirectoryRestored.passed();
    // Once it has had its claim, its policy is an admin's.
    if volume.reclaim != revival.policy && volume.own_claim().is_none() {
        session.cluster.set_policy(&volume, revival.policy).await?;
    }
    if order.kind == Kind::Archives {
        // What is left of it decides nothing.
        let _ = export.storage.forget_archive(&order.name).await;
    }
    if !may_claim {
        writeln!(out, "The right to create claims lacks. This claim gets the volume:\n---")?;
        write!(out, "{}", crate::commands::adopt::manifest(&revival.claim_object())?)?;
        return Ok(());
    }
    match session.cluster.create_claim(&revival.claim_object(), false).await {
        Err(error) if error.is_already_exists() => {}
        created => {
            created.with_context(|| format!("failed to make the claim {}; run this again", revival.claim))?;
        }
    }
    Failpoint::ClaimRestored.passed();
    let volume = await_bound(session, &revival).await?;
    say_restored(session, &volume, order).await;
    writeln!(out, "the claim {}/{} is bound", revival.namespace, revival.claim)?;
    Ok(())
}

/// Tells whether another run of the same command has brought the directory back for the same volume, and needs that.
async fn is_another_runs(
    session: &Session,
    origin: &Origin,
    from: &RelPath,
    revival: &Revival,
    at: &Location,
) -> bool {
    let storage = &session.exports.get(origin.id).storage;
    let has_moved = matches!(storage.look(from).await, Ok(None))
        && matches!(storage.look(&revival.directory).await, Ok(Some(_)));
    has_moved && session.ledger().await.is_ok_and(|ledger| ledger.is_alone(&(&*revival.volume).into(), at))
}

/// Says on the claim where its data is from. Without that, nothing lacks but the event.
async fn say_restored(session: &Session, volume: &Volume, order: &Order) {
    let Some(claim) = volume.own_claim() else { return };
    let component = format!("{}_restore", session.provisioner);
    let (recorder, write) = Recorder::new(session.client.clone(), component);
    let message = format!("volume {} has the data again that was kept as {:?}", volume.name, order.name);
    recorder.record(claim, Reason::Restored, &message);
    drop(recorder);
    let _ = timeout(PROOF_FOR, write).await;
}

/// Finds the directory, and what an earlier run has made of it.
async fn find(session: &Session, order: &Order) -> Result<Origin> {
    let name = &*order.name;
    RelPath::parse(name).with_context(|| format!("{name:?} is not the name of anything that can be restored"))?;
    let chosen = session.chosen(order.export.as_deref())?;
    let mut made = Vec::new();
    let learn = |volume: Volume| {
        // A volume that was made for a claim which asked for it is complete.
        let is_of_claim = volume.is_named_after_own_claim();
        if volume.restored_from.as_deref() == Some(name) && volume.is_of(&session.provisioner) && !is_of_claim {
            made.push(volume);
        }
    };
    session.cluster.volumes(learn).await?;
    let is_on = |volume: &Volume, id| located(volume, &session.served).is_ok_and(|at| at.export == id);
    let mut found = by_name(session, order.kind, &chosen, name).await?;
    if found.len() > 1 {
        let exports: Vec<_> = found.iter().map(|(_, item)| item.export.as_str()).collect();
        bail!("{name:?} is on the exports {}: say which by --export", exports.join(", "));
    }
    if let Some((id, item)) = found.pop() {
        let note = note_of(session, order, id, &item).await?;
        // One that is complete, or about to go, was made of an earlier one of this name.
        let is_unfinished = |volume: &Volume| {
            let is_kept = volume.reclaim == ReclaimPolicy::Retain && volume.own_claim().is_none();
            is_kept && !volume.deleting && volume.disposed.is_none()
        };
        let made = made.into_iter().find(|volume| is_on(volume, id) && is_unfinished(volume));
        let kept_until = item.kept_until;
        let Item { lies_at, directory, .. } = item;
        return Ok(Origin { id, lies_at, directory, note, kept_until, made });
    }
    for (id, _) in chosen {
        if let Some(volume) = made.iter().find(|volume| is_on(volume, id)) {
            let item = Item { volume: Some(volume.name.to_string()), ..Item::default() };
            let mut note = note_of(session, order, id, &item).await?;
            if note.is_none() {
                let found =
                    session.exports.get(id).storage.note_of_volume(&session.mark, volume.name.as_str()).await;
                note = found?.and_then(FoundNote::ok);
            }
            return Ok(Origin {
                id,
                lies_at: None,
                directory: None,
                note,
                kept_until: None,
                made: Some(volume.clone()),
            });
        }
    }
    let list = if order.kind == Kind::Trash { "trash" } else { "archives" };
    bail!("there is no {name:?}; `nfs-provisioner {list}` lists what there is");
}

/// Reads the note of what is restored.
///
/// # Errors
/// If a later version has written it, which knows more of it than we do.
async fn note_of(session: &Session, order: &Order, id: ExportId, item: &Item) -> Result<Option<Note>> {
    let storage = &session.exports.get(id).storage;
    let found = match (order.kind, &item.volume) {
        (Kind::Trash, Some(volume)) => {
            let notes = Notes::find(storage, &session.mark).await?;
            return Ok(notes.of_volume(storage, volume).await.map(|(_, note)| note));
        }
        (Kind::Trash, None) => None,
        _ => storage.note_of_archive(&order.name).await?,
    };
    match found {
        Some(Err(NoteError::Newer(version))) => bail!(
            "the note of {:?} has version {version}, which a later version of this program wrote: restore it with that",
            order.name
        ),
        found => Ok(found.and_then(FoundNote::ok)),
    }
}

/// Decides on the objects. What an earlier run has made, this one keeps.
async fn decide(session: &Session, order: &Order, origin: &Origin) -> Result<Revival> {
    let export = session.exports.get(origin.id);
    let note = origin.note.as_ref();
    let directory = match (&origin.made, note) {
        (Some(made), _) => located(made, &session.served).map_err(|refusal| anyhow!("{refusal}"))?.path,
        (None, Some(note)) => note.directory.clone(),
        (None, None) => {
            let named = origin.directory.as_deref().or_else(|| order.name.strip_prefix(ARCHIVE_PREFIX));
            let named = named.unwrap_or_default();
            RelPath::parse(named).with_context(|| format!("no note tells where {:?} was", order.name))?
        }
    };
    if let (Some(note), None, None) = (note, &order.wish.claim, &origin.made) {
        let is_other = |noted: &Option<Box<str>>, own: &str| noted.as_deref().is_some_and(|noted| noted != own);
        if is_other(&note.cluster, session.mark.as_str()) || is_other(&note.provisioner, &session.provisioner) {
            bail!(
                "it is of another cluster or provisioner ({}, {}): say by --as NAMESPACE/CLAIM who is to have it here",
                note.cluster.as_deref().unwrap_or("unknown"),
                note.provisioner.as_deref().unwrap_or("unknown")
            );
        }
    }
    let class = Revival::class_of(note, &order.wish);
    let class = session.cluster.class(&(&*class).into()).await?;
    let class = class.filter(|class| class.is_of(&session.provisioner));
    if let (Some(name), None) = (&order.wish.class, &class) {
        bail!("there is no StorageClass {name:?} of the provisioner {:?}", session.provisioner);
    }
    let mut wish = order.wish.clone();
    if let Some(made) = &origin.made {
        wish.size = made.capacity.as_ref().map(|capacity| capacity.0.clone());
        wish.claim = made.claim.as_ref().map(|claim| (claim.namespace.to_string(), claim.name.to_string()));
    }
    let revival = Revival::new(&directory, &export.address, note, &wish, class.as_ref(), &session.provisioner);
    let revival = revival.map_err(anyhow::Error::msg)?;
    Ok(match &origin.made {
        Some(made) => revival.with(made),
        None => revival,
    })
}

/// Makes sure that nothing stands in the way, and tells whether claims may be made.
async fn check(session: &Session, origin: &Origin, revival: &Revival, at: &Location) -> Result<bool> {
    let Revival { volume, namespace, claim, directory, .. } = revival;
    let export = session.exports.get(origin.id);
    if origin.made.is_none() && session.cluster.volume(&(&**volume).into()).await?.is_some() {
        bail!("there is a volume {volume:?} already: delete it first, if it is not needed any more");
    }
    let ledger = session.ledger().await?;
    if !ledger.is_alone(&(&**volume).into(), at) {
        bail!("another volume has the directory {:?}, one above it or one in it", directory.as_str());
    }
    if let Some(from) = &origin.lies_at {
        is_free(origin, &ledger, from)?;
    }
    if revival.policy != ReclaimPolicy::Retain && !may_patch(session).await {
        bail!(
            "the right to patch persistentvolumes lacks, without which the volume could not get its reclaim policy once it \
             is complete; rbac/rbac.yaml has it"
        );
    }
    let is_there = export.storage.look(directory).await?.is_some();
    if origin.lies_at.is_none() && !is_there {
        bail!(
            "neither that nor the directory {:?} of the volume {volume:?}, which an earlier run has made for it, is on the \
             export {}: it was brought back in another way. Delete that volume",
            directory.as_str(),
            export.name
        );
    }
    if origin.lies_at.is_some() && is_there {
        bail!(
            "there is a directory {:?} on the export {} already: move it away first, or remove it if it is not \
             needed any more (`nfs-provisioner orphans` tells whose it is)",
            directory.as_str(),
            export.name
        );
    }
    match session.cluster.named_by_claim(namespace, claim).await? {
        Some(Some(named)) if named.as_str() == volume => return Ok(true),
        Some(_) => {
            bail!("there is a claim {namespace}/{claim} already: delete it first, or name another one by --as")
        }
        None => {}
    }
    match session.cluster.create_claim(&revival.claim_object(), true).await {
        Ok(()) => Ok(true),
        Err(error) if error.is_forbidden() && is_for_want_of_rights(session, namespace).await => Ok(false),
        Err(error) => Err(error).with_context(|| format!("the claim {namespace}/{claim} cannot be made")),
    }
}

/// Makes sure that no volume has anything to do with what is restored, and that it is whole.
fn is_free(origin: &Origin, ledger: &Ledger, from: &RelPath) -> Result<()> {
    let at = Location { export: origin.id, path: from.clone() };
    if !ledger.is_alone(&"".into(), &at) {
        bail!("a volume of the cluster has this directory, one above it or one in it");
    }
    let margin = SignedDuration::from_secs(KEPT_MARGIN);
    let is_trash = classify(from.as_str().split('/').next().unwrap_or_default()) == RootEntry::Trash;
    if is_trash && origin.kept_until.is_none_or(|until| until.duration_since(Timestamp::now()) < margin) {
        bail!("it is not kept any more: a part of it may have been removed already");
    }
    Ok(())
}

async fn may_patch(session: &Session) -> bool {
    // Without an answer the call itself tells.
    missing(&session.client, PROTECT, None).await.is_ok_and(|missing| missing.is_empty())
}

/// Tells whether we may not create claims at all. A quota, or an admission policy, forbids a claim, too.
async fn is_for_want_of_rights(session: &Session, namespace: &str) -> bool {
    let create = Permission { verb: "create", group: "", resource: "persistentvolumeclaims" };
    missing(&session.client, &[create], Some(namespace)).await.is_ok_and(|missing| !missing.is_empty())
}

async fn make_volume(session: &Session, origin: &Origin, revival: &Revival, name: &str) -> Result<Volume> {
    if let Some(made) = &origin.made {
        return Ok(made.clone());
    }
    let object = revival.volume_object(ReclaimPolicy::Retain, Some((annotation::RESTORED_FROM, name)));
    let is_new = session.cluster.create_as_spelled(&object).await?;
    Failpoint::VolumeRestored.passed();
    let found = session.cluster.volume(&(&*revival.volume).into()).await?;
    let is_it = |volume: &Volume| volume.restored_from.as_deref() == Some(name);
    match found.filter(|volume| is_new || is_it(volume)) {
        Some(volume) => Ok(volume),
        None => bail!("the volume {:?} was made or deleted by another just now: run this again", revival.volume),
    }
}

/// Renames the directory back, if still nobody else has anything to do with its path.
async fn bring_back(
    session: &Session,
    origin: &Origin,
    from: &RelPath,
    revival: &Revival,
    at: &Location,
) -> Result<()> {
    let Export { storage, name, .. } = session.exports.get(origin.id);
    sleep(SETTLES).await;
    let ledger = session.ledger().await?;
    is_free(origin, &ledger, from)?;
    if !ledger.is_alone(&(&*revival.volume).into(), at) {
        bail!(
            "another volume has got the directory {:?}, one above it or one in it, just now",
            revival.directory.as_str()
        );
    }
    let until = BootTime::now() + PROOF_FOR;
    let note = revival.note(origin.note.as_ref(), at, &session.mark);
    let record = async |note| match timeout(PROOF_FOR, storage.record(&session.mark, note)).await {
        Ok(Ok(())) => {}
        found => info!(export = &**name, ?found, "the volume's note is written later"),
    };
    // It may take the place of the note of what lies in the trash, until that has left it.
    let (released, inode) = origin.note.as_ref().map_or((None, None), |note| (note.released, note.inode));
    record(Note { released, inode, ..note.clone() }).await;
    let Some(before) = storage.look(from).await?.map(|seen| seen.inode) else {
        bail!("{from} has gone meanwhile")
    };
    let was_there = match storage.clone().until(until).bring_back(from, &revival.directory).await {
        Ok(was_there) => was_there,
        // The server may have done it, and the answer been lost.
        Err(error) if storage.look(from).await?.is_some() => return Err(error.into()),
        Err(_) => false,
    };
    let inode = |seen: Option<Seen>| seen.map(|seen| seen.inode);
    if !was_there && inode(storage.look(&revival.directory).await?) != Some(before) {
        bail!("{from} has gone meanwhile");
    }
    // A claim may have asked for the same at the same moment.
    if !was_there && !session.ledger().await?.is_alone(&(&*revival.volume).into(), at) {
        bail!("{from} has been brought back for a claim meanwhile");
    }
    if released.is_some() {
        record(note).await;
    }
    Ok(())
}

/// Takes back the note of a volume that was not made after all. That of what still lies in the trash is written again.
async fn forget_note(session: &Session, order: &Order, origin: &Origin, volume: &Volume) -> Result<()> {
    let storage = &session.exports.get(origin.id).storage;
    match &origin.note {
        Some(note) if order.kind == Kind::Trash => storage.record(&session.mark, note.clone()).await?,
        _ => storage.forget(&session.mark, volume.name.as_str()).await?,
    }
    Ok(())
}

async fn await_bound(session: &Session, revival: &Revival) -> Result<Volume> {
    let begun = Instant::now();
    loop {
        let volume = session.cluster.volume(&(&*revival.volume).into()).await?;
        match volume {
            Some(volume) if volume.phase == Phase::Bound => return Ok(volume),
            Some(_) if begun.elapsed() < BOUND_MAX => sleep(LOOK).await,
            Some(_) => bail!(
                "the directory is back, but the claim is not bound after {} s: `kubectl -n {} describe pvc {}` tells why",
                BOUND_MAX.as_secs(),
                revival.namespace,
                revival.claim
            ),
            None => bail!("the volume {} has gone meanwhile", revival.volume),
        }
    }
}
