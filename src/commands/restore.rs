//! `nfs-provisioner archives restore`: an archive becomes a volume with a claim again.
//!
//! The volume is made first, with the reclaim policy `Retain`, so that nothing takes its directory away; then the
//! directory is renamed back to its path; then the volume gets its policy, and the claim is made. A crash leaves a volume
//! that names the archive, by which the next run knows how far this one came.

use std::io::Write;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::time::{Instant, sleep};
use tracing::info;

use crate::commands::inventory::archives;
use crate::commands::revive::{Revival, Wish};
use crate::commands::session::Session;
use crate::decide::volume::located;
use crate::export::Export;
use crate::failpoint::Failpoint;
use crate::layout::{Note, NoteError};
use crate::model::exports::{ExportId, Location};
use crate::model::volume::{Phase, ReclaimPolicy, Volume, annotation};
use crate::storage::FoundNote;
use crate::values::path::RelPath;

/// How long a provisioner that works meanwhile may take to see the new volume, before anything is looked at that it could
/// be about to use.
const SETTLES: Duration = Duration::from_secs(2);

/// How long the claim may take to be bound, for the command to say so.
const BOUND_MAX: Duration = Duration::from_secs(30);

/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(250);

/// What is to be restored, and how.
#[derive(Debug, Clone)]
pub struct Order {
    /// The archive's name.
    pub name: String,
    /// The name of the export, if it is said.
    pub export: Option<String>,
    /// What is to be otherwise than noted.
    pub wish: Wish,
    /// Whether only to say what would be done.
    pub dry_run: bool,
}

/// Where the archive is, or was before an earlier run.
struct Origin {
    id: ExportId,
    archive: RelPath,
    note: Option<Note>,
    /// The volume that an earlier run has made.
    made: Option<Volume>,
    is_there: bool,
}

/// Restores an archive.
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
    if origin.is_there
        && let Err(error) = bring_back(session, &origin, &revival, &at).await
    {
        if origin.made.is_none() {
            // It was made a moment ago, with no claim and nothing to reclaim.
            let _ = session.cluster.delete_volume(&volume).await;
        }
        return Err(error);
    }
    Failpoint::DirectoryRestored.passed();
    if volume.reclaim != revival.policy {
        session.cluster.set_policy(&volume, revival.policy).await?;
    }
    let _ = export.storage.forget_archive(origin.archive.as_str()).await;
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
    await_bound(session, &revival).await?;
    writeln!(out, "the claim {}/{} is bound", revival.namespace, revival.claim)?;
    Ok(())
}

/// Finds the archive, and what an earlier run has made of it.
async fn find(session: &Session, order: &Order) -> Result<Origin> {
    let name = &*order.name;
    let archive = RelPath::parse(name).with_context(|| format!("{name:?} is not the name of an archive"))?;
    let chosen = session.chosen(order.export.as_deref())?;
    let mut made = Vec::new();
    let learn = |volume: Volume| {
        if volume.restored_from.as_deref() == Some(name) && volume.is_of(&session.provisioner) {
            made.push(volume);
        }
    };
    session.cluster.volumes(learn).await?;
    let is_on = |volume: &Volume, id| located(volume, &session.served).is_ok_and(|at| at.export == id);
    let found = archives(chosen.iter().copied(), name).await?;
    match &*found {
        [] => {
            for (id, _) in chosen {
                if let Some(volume) = made.iter().find(|volume| is_on(volume, id)) {
                    return Ok(Origin { id, archive, note: None, made: Some(volume.clone()), is_there: false });
                }
            }
            bail!("there is no archive {name:?}; `nfs-provisioner archives` lists those that there are");
        }
        [(id, _)] => {
            let note = match session.exports.get(*id).storage.note_of_archive(name).await? {
                Some(Err(NoteError::Newer(version))) => bail!(
                    "the note of {name:?} has version {version}, which a later version of this program wrote: restore it \
                     with that"
                ),
                found => found.and_then(FoundNote::ok),
            };
            let made = made.into_iter().find(|volume| is_on(volume, *id));
            Ok(Origin { id: *id, archive, note, made, is_there: true })
        }
        several => {
            let exports: Vec<_> = several.iter().map(|(_, item)| item.export.as_str()).collect();
            bail!("there is an archive {name:?} on the exports {}: say which by --export", exports.join(", "));
        }
    }
}

/// Decides on the objects. What an earlier run has made, this one keeps.
async fn decide(session: &Session, order: &Order, origin: &Origin) -> Result<Revival> {
    let export = session.exports.get(origin.id);
    let note = match (&origin.note, &origin.made) {
        (Some(note), _) => Some(note.clone()),
        // The note goes when the archive is one no more, and lives on as the volume's.
        (None, Some(made)) => {
            export.storage.note_of_volume(&session.mark, made.name.as_str()).await?.and_then(FoundNote::ok)
        }
        (None, None) => None,
    };
    let named = origin.archive.as_str().strip_prefix(crate::layout::ARCHIVE_PREFIX).unwrap_or_default();
    let directory = match (&note, &origin.made) {
        (_, Some(made)) => located(made, &session.served).map_err(|refusal| anyhow::anyhow!("{refusal}"))?.path,
        (Some(note), None) => note.directory.clone(),
        (None, None) => RelPath::parse(named).with_context(|| format!("{named:?} is no directory"))?,
    };
    let class = Revival::class_of(note.as_ref(), &order.wish);
    let class = session.cluster.class(&(&*class).into()).await?;
    let class = class.filter(|class| class.is_of(&session.provisioner));
    if let (Some(name), None) = (&order.wish.class, &class) {
        bail!("there is no StorageClass {name:?} of the provisioner {:?}", session.provisioner);
    }
    let (address, wish) = (&export.address, &order.wish);
    let revival = Revival::new(&directory, address, note.as_ref(), wish, class.as_ref(), &session.provisioner);
    let mut revival = revival.map_err(anyhow::Error::msg)?;
    if let Some(made) = &origin.made {
        revival.volume = made.name.to_string();
    }
    Ok(revival)
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
    if origin.is_there && export.storage.look(directory).await?.is_some() {
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

/// Tells whether we may not create claims at all. A quota, or an admission policy, forbids a claim, too.
async fn is_for_want_of_rights(session: &Session, namespace: &str) -> bool {
    use crate::cluster::permissions::{Permission, missing};
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
async fn bring_back(session: &Session, origin: &Origin, revival: &Revival, at: &Location) -> Result<()> {
    let Export { storage, name, .. } = session.exports.get(origin.id);
    sleep(SETTLES).await;
    if !session.ledger().await?.is_alone(&(&*revival.volume).into(), at) {
        bail!(
            "another volume has got the directory {:?}, one above it or one in it, just now",
            revival.directory.as_str()
        );
    }
    let mut note = revival.note(origin.note.as_ref(), &session.provisioner);
    note.cluster = session.mark.is_known().then(|| session.mark.as_str().into());
    if let Err(error) = storage.record(&session.mark, note).await {
        info!(export = &**name, %error, "the volume's note is written later");
    }
    let was_there = storage.bring_back(&origin.archive, &revival.directory).await?;
    if !was_there && storage.look(&revival.directory).await?.is_none() {
        bail!("the archive {} has gone meanwhile", origin.archive);
    }
    Ok(())
}

async fn await_bound(session: &Session, revival: &Revival) -> Result<()> {
    let begun = Instant::now();
    loop {
        let volume = session.cluster.volume(&(&*revival.volume).into()).await?;
        match volume {
            Some(volume) if volume.phase == Phase::Bound => return Ok(()),
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
