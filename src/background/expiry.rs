//! Archives that have expired: those whose notes say so are put into the trash. On the way all archives are counted.
//!
//! A note informs and never authorises alone: whoever can write on the export could write one. So an archive goes
//! only if all of this is so, and stays if any of it cannot be found out:
//!
//! - its note lies where only we write, names us as the provisioner, and says that its time is past, which is at
//!   least the shortest retention after it was archived;
//! - the directory has not been changed since its note was written, so that the note is not an earlier archive's;
//! - its class, if there is one still, has archives expire, and this one by now;
//! - the volume that the note names does not exist, and no volume of the cluster is at, in or above the archive's
//!   path, nor is being made or copied there;
//! - we lead, at the moment of the rename as well.

use std::collections::HashSet;
use std::time::Duration;

use futures::future::join_all;
use jiff::Timestamp;
use tokio::time::{Instant, sleep};
use tracing::{debug, info, warn};

use crate::cluster::election::Leadership;
use crate::controllers::context::Context;
use crate::export::ArchiveCounts;
use crate::layout::{ClusterMark, Note};
use crate::ledger::Departure;
use crate::model::class::Class;
use crate::model::exports::{ExportId, Location};
use crate::observe::metrics::export_label;
use crate::storage::{Archive, Problem, StorageError};
use crate::values::names::{ClassName, VolumeName};
use crate::values::path::RelPath;
use crate::values::time::{BootTime, seconds_now};

/// The time from the start to the first look at the archives.
const FIRST: Duration = Duration::from_secs(20);

/// The time between two looks, and how much longer it is at random, in seconds: exports have theirs at different
/// times.
const PAUSE: (Duration, u64) = (Duration::from_hours(1), 10 * 60);

/// How many archives that stay are named in the log.
const NAMED: usize = 20;

/// The time between two pages of archives: nobody waits for them.
const PAGE_PAUSE: Duration = Duration::from_secs(1);

/// How old what is known of volumes may be.
const KNOWN_FOR: Duration = Duration::from_secs(10);

/// How long it may take from the questions about an archive to its rename.
const PROOF_FOR: Duration = Duration::from_secs(5);

/// Puts archives that have expired into the trash, from time to time while we lead, for ever.
pub async fn expire_forever(context: Context, leadership: Leadership) {
    join_all(context.exports.iter().map(|(id, _)| expire_on(id, &context, leadership.clone()))).await;
}

async fn expire_on(id: ExportId, context: &Context, mut leadership: Leadership) {
    sleep(FIRST).await;
    loop {
        leadership.held().await;
        if let Err(error) = look(id, context, &leadership).await {
            let export = &*context.exports.get(id).name;
            warn!(export, %error, "failed to look for archives that have expired, will try it again");
        }
        sleep(PAUSE.0 + Duration::from_secs(fastrand::u64(..PAUSE.1))).await;
    }
}

/// Looks at all archives of an export, a page at a time, and counts those that stay.
async fn look(id: ExportId, context: &Context, leadership: &Leadership) -> Result<(), StorageError> {
    let storage = &context.exports.get(id).storage;
    let (mut after, mut touched) = (None::<Box<str>>, Vec::new());
    let (mut count, mut counts) = (0, ArchiveCounts::default());
    loop {
        let page = storage.archives(after.as_deref()).await?;
        let mut gone = HashSet::new();
        for archive in &page.limited {
            match expire(id, archive, context, leadership).await {
                Ok(()) => drop(gone.insert(archive.path())),
                Err(Stays::Touched) => {
                    count += 1;
                    touched.extend((touched.len() < NAMED).then(|| archive.path().to_string()));
                }
                Err(Stays::NotYet | Stays::Foreign | Stays::Unclear(_) | Stays::Failed(_)) => {}
            }
        }
        // A volume of the namespace "archived" may have such a name.
        let is_volumes = |path: &RelPath| context.state.ledger().at_or_beneath(id, path.as_str()).is_some();
        let stay = page.all.iter().filter(|(path, _)| !gone.contains(path) && !is_volumes(path));
        stay.for_each(|(_, since)| counts.add(*since));
        after = page.next;
        if !leadership.is_held() {
            break;
        }
        if after.is_none() {
            *context.exports.get(id).archives.lock() = counts;
            break;
        }
        sleep(PAGE_PAUSE).await;
    }
    if count > 0 {
        let export = &*context.exports.get(id).name;
        info!(export, count, first = ?touched, "archives have expired, but stay: somebody has changed them since");
    }
    Ok(())
}

/// Puts an archive into the trash if it has expired, and says so.
async fn expire(id: ExportId, archive: &Archive, context: &Context, leadership: &Leadership) -> Result<(), Stays> {
    let export = context.exports.get(id);
    let (note, path, name) = (archive.note(), archive.path().as_str(), &*export.name);
    let ended = expired(id, archive, context, leadership).await;
    match &ended {
        Ok(()) => {
            context.metrics.archives_expired.get_or_create(&export_label(name)).inc();
            export.backlog.pushed();
            let (volume, until) = (&*note.volume, note.kept_until.unwrap_or_default());
            let (namespace, claim) = (note.namespace.as_deref(), note.claim.as_deref());
            info!(
                export = name, archive = path, volume, namespace, claim, archived = %note.archived.unwrap_or_default(), %until,
                "the archive has expired: put it into the trash"
            );
        }
        Err(Stays::NotYet | Stays::Foreign | Stays::Touched) => {}
        Err(Stays::Unclear(why)) => {
            debug!(export = name, archive = path, why, "an archive that has expired stays");
        }
        Err(Stays::Failed(error)) if matches!(error.problem, Problem::NotLeading | Problem::TooLate) => {}
        Err(Stays::Failed(error)) => {
            warn!(export = name, archive = path, %error, "failed to put an archive into the trash that has expired");
        }
    }
    ended
}

/// Why an archive stays.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Stays {
    /// Its time has not come, as far as is certain.
    NotYet,
    /// It is not ours.
    Foreign,
    /// Somebody has changed it since it was archived, or its note is not its own.
    Touched,
    /// Something could not be found out, or speaks against it.
    Unclear(String),
    /// It could not be put into the trash.
    Failed(StorageError),
}

/// Finds out whether an archive has expired, as the documentation of this module has it, and then puts it into the
/// trash.
async fn expired(
    id: ExportId,
    archive: &Archive,
    context: &Context,
    leadership: &Leadership,
) -> Result<(), Stays> {
    let unclear = |why: &dyn ToString| Stays::Unclear(why.to_string());
    let note = archive.note();
    is_past(note, Timestamp::now(), &context.scope.provisioner, &context.records.mark())?;
    if !archive.is_untouched() {
        return Err(Stays::Touched);
    }
    let class = context.class(&ClassName::from(&*note.class)).await.map_err(|error| unclear(&error))?;
    is_past_by_class(note, Timestamp::now(), &context.scope.provisioner, class.as_deref())?;
    let until = BootTime::now() + PROOF_FOR;
    let recent = Instant::now().checked_sub(KNOWN_FOR);
    if let Some(since) = [recent, leadership.since(), context.state.doubted()].into_iter().flatten().max() {
        context.refresh(since).await.map_err(|error| unclear(&error))?;
    }
    let volume = VolumeName::from(&*note.volume);
    let found = context.cluster.volume(&volume).await.map_err(|error| unclear(&error))?;
    if found.is_some() || context.state.ledger().exists(&volume) {
        return Err(unclear(&"its volume exists"));
    }
    let at = Location { export: id, path: archive.path().clone() };
    // No volume has such a name, so that none is taken for it.
    let departing = VolumeName::from(&*format!("{id}/{}", at.path));
    let departure = context.state.ledger().depart(&departing, &at);
    let departure = departure.filter(Departure::is_alone);
    let departure = departure.ok_or_else(|| unclear(&"a volume has a part in it"))?;
    if !leadership.is_held() {
        return Err(unclear(&"this process does not lead any more"));
    }
    let storage = context.exports.get(id).storage.clone().until(until);
    let trashed = storage.expire(archive, seconds_now()).await;
    departure.moved();
    match trashed {
        Ok(Some(_)) => Ok(()),
        Ok(None) => Err(unclear(&"it is not as it was a moment ago")),
        Err(error) => Err(Stays::Failed(error)),
    }
}

/// Tells whether a note is ours, makes sense, and says that its archive's time is past.
fn is_past(note: &Note, now: Timestamp, provisioner: &str, mark: &ClusterMark) -> Result<(), Stays> {
    // A note without a mark is of a cluster that did not know its own.
    let is_other_clusters = note.cluster.as_deref().is_some_and(|cluster| cluster != mark.as_str());
    if note.provisioner.as_deref() != Some(provisioner) || is_other_clusters {
        return Err(Stays::Foreign);
    }
    let (Some(archived), Some(until)) = (note.archived, note.kept_until) else { return Err(Stays::NotYet) };
    let is_consistent = until.as_second() > archived.as_second() && archived <= now;
    if until <= now && is_consistent { Ok(()) } else { Err(Stays::NotYet) }
}

/// Tells whether an archive's time is past by its class as it is now, too. A class that has gone, or is another
/// provisioner's, has no say.
fn is_past_by_class(note: &Note, now: Timestamp, provisioner: &str, class: Option<&Class>) -> Result<(), Stays> {
    let Some(class) = class.filter(|class| &*class.provisioner == provisioner) else { return Ok(()) };
    let retention = class.parameters.archive_retention.ok_or(Stays::NotYet)?;
    let archived = note.archived.ok_or(Stays::NotYet)?;
    if retention.after(archived) <= now { Ok(()) } else { Err(Stays::NotYet) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::model::class::Binding;
    use crate::model::parameters::{Parameters, parameter};
    use crate::model::volume::ReclaimPolicy;

    fn at(time: &str) -> Timestamp {
        format!("2026-01-{time}Z").parse().unwrap()
    }

    fn note(archived: &str, kept_until: Option<&str>, provisioner: Option<&str>) -> Note {
        let bare = r#"{"version":1,"directory":"shop/data","volume":"pvc-1","class":"nfs"}"#;
        Note {
            archived: Some(at(archived)),
            kept_until: kept_until.map(at),
            provisioner: provisioner.map(Into::into),
            ..Note::parse(bare).unwrap()
        }
    }

    #[test]
    fn only_a_note_of_ours_whose_time_is_past_lets_an_archive_go() {
        let ours = Some("us");
        let of_cluster =
            |mark: &str| Note { cluster: Some(mark.into()), ..note("01T00:00:00", Some("02T00:00:00"), ours) };
        let rows = [
            (note("01T00:00:00", Some("02T00:00:00"), ours), Ok(())),
            (note("01T00:00:00", Some("03T00:00:00"), ours), Ok(())),
            (note("01T00:00:00", Some("03T00:00:01"), ours), Err(Stays::NotYet)),
            (note("01T00:00:00", None, ours), Err(Stays::NotYet)),
            // It makes no sense.
            (note("02T00:00:00", Some("02T00:00:00"), ours), Err(Stays::NotYet)),
            (note("02T00:00:00", Some("01T00:00:00"), ours), Err(Stays::NotYet)),
            (note("03T00:00:01", Some("02T00:00:00"), ours), Err(Stays::NotYet)),
            (note("01T00:00:00", Some("02T00:00:00"), Some("them")), Err(Stays::Foreign)),
            (note("01T00:00:00", Some("02T00:00:00"), None), Err(Stays::Foreign)),
            (of_cluster("7-8"), Ok(())),
            (of_cluster("9"), Err(Stays::Foreign)),
        ];
        let mark = ClusterMark::parse("7-8").unwrap();
        for (note, expected) in rows {
            assert_eq!(is_past(&note, at("03T00:00:00"), "us", &mark), expected, "{note:?}");
        }
    }

    #[test]
    fn a_class_that_is_there_can_only_have_an_archive_stay_longer() {
        let class = |provisioner: &str, retention: &str| {
            let parameters = BTreeMap::from([(parameter::ARCHIVE_RETENTION.to_owned(), retention.to_owned())]);
            Class {
                name: "nfs".into(),
                uid: "5".into(),
                provisioner: provisioner.into(),
                parameters: Parameters::read(&parameters),
                reclaim: ReclaimPolicy::Delete,
                binding: Binding::Immediate,
                mount_options: Vec::new(),
            }
        };
        let rows = [
            (None, Ok(())),
            (Some(class("us", "1d")), Ok(())),
            (Some(class("us", "2d")), Ok(())),
            (Some(class("us", "3d")), Err(Stays::NotYet)),
            (Some(class("us", "")), Err(Stays::NotYet)),
            (Some(class("us", "soon")), Err(Stays::NotYet)),
            (Some(class("them", "3d")), Ok(())),
        ];
        for (class, expected) in rows {
            let note = note("01T00:00:00", Some("02T00:00:00"), Some("us"));
            assert_eq!(is_past_by_class(&note, at("03T00:00:00"), "us", class.as_ref()), expected, "{class:?}");
        }
    }
}
