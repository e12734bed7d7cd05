//! The plan: which volumes are made anew, and what stands in the way of others. Decided without any I/O, and printed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::config::Rehome;
use crate::model::volume::{NfsSource, Volume};
use crate::values::address::ExportAddress;
use crate::values::path::{PathError, RelPath};
use crate::values::text::printable;

/// How many Pods are named of those that use a claim.
const NAMED: usize = 3;

/// A volume as far as the plan needs it.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    /// The volume.
    pub(super) volume: Volume,
    /// A finalizer whose owner is not known, if it has one.
    pub(super) other_finalizer: Option<Box<str>>,
}

/// A Pod that has not ended, and the claims that it uses.
#[derive(Debug, Clone)]
pub(super) struct User {
    /// The Pod's name.
    pub(super) name: String,
    /// The names of the claims, which are in its namespace.
    pub(super) claims: Vec<String>,
}

/// The Pods of each namespace; `None` where they may not be listed.
pub(super) type Pods = BTreeMap<Box<str>, Option<Vec<User>>>;

/// What stands in the way of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Obstacle {
    /// The volume is being deleted.
    Deleting,
    /// The volume's path cannot be read as one beneath the old address.
    Path(PathError),
    /// The volume has a finalizer of somebody unknown, who may act on a deletion.
    Finalizer(Box<str>),
    /// Another volume has the new address already.
    Taken(Box<str>),
    /// Pods use the volume's claim.
    InUse(Vec<String>),
    /// The Pods of the claim's namespace may not be listed.
    NoRight(Box<str>),
    /// Another volume in the same directory, above it or beneath it stays where it is.
    Shares(Box<str>),
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Deleting => f.write_str("it is being deleted"),
            Self::Path(error) => write!(f, "its path {error}"),
            Self::Finalizer(name) => {
                write!(f, "whoever set its finalizer {name:?} may act on a deletion: take it off first")
            }
            Self::Taken(name) => write!(f, "the volume {name} is there already: delete the one that is wrong"),
            Self::InUse(pods) => {
                let named = pods.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
                let more = pods.len().saturating_sub(NAMED);
                let more = if more > 0 { format!(" and {more} more") } else { String::new() };
                write!(f, "used by Pods ({named}{more}): stop them, or add --in-use")
            }
            Self::NoRight(namespace) => write!(
                f,
                "whether Pods use it is not known: grant list on pods in the namespace {namespace}, or add --in-use"
            ),
            Self::Shares(name) => write!(f, "its directory is also that of the volume {name}, which stays"),
        }
    }
}

/// A volume at the old address, and where it goes.
#[derive(Debug, Clone)]
pub(super) struct Move {
    /// The volume.
    pub(super) volume: Volume,
    /// The new address; `None` if the path cannot be read.
    pub(super) to: Option<NfsSource>,
    /// What stands in the way.
    pub(super) obstacle: Option<Obstacle>,
}

/// Finds where a volume at the old address or beneath it goes; `None` if it is elsewhere.
///
/// # Errors
/// Returns the reason if the volume is on the old server and its path cannot be read.
fn target(volume: &Volume, request: &Rehome) -> Option<Result<NfsSource, PathError>> {
    let source = volume.source.as_ref().filter(|source| request.from.is_on(&source.server))?;
    let path = match request.from.relative(&source.path) {
        Ok(directory) => request.to.volume_path(&directory),
        Err(PathError::Export) => request.to.path_name().to_owned(),
        Err(PathError::Outside) => return None,
        Err(error) => return Some(Err(error)),
    };
    Some(Ok(NfsSource { server: request.to.server_name().into(), path: path.into() }))
}

/// Returns the directory of a volume beneath an address, as its components; empty for the address itself.
fn directory(volume: &Volume, at: &ExportAddress) -> Option<Vec<String>> {
    let source = volume.source.as_ref().filter(|source| at.is_on(&source.server))?;
    match at.relative(&source.path) {
        Ok(path) => Some(RelPath::names(&path).map(|name| name.as_str().to_owned()).collect()),
        Err(PathError::Export) => Some(Vec::new()),
        Err(_) => None,
    }
}

/// Finds the volumes of this provisioner at the old address, of any class.
pub(super) fn at_from<'a>(
    volumes: &'a [Seen],
    provisioner: &'a str,
    request: &'a Rehome,
) -> impl Iterator<Item = &'a Seen> {
    volumes.iter().filter(move |seen| seen.volume.is_of(provisioner) && target(&seen.volume, request).is_some())
}

/// Tells whether a request is for a volume's class.
pub(super) fn is_of_class(volume: &Volume, request: &Rehome) -> bool {
    request.class.as_ref().is_none_or(|class| volume.class.as_str() == class)
}

/// Decides on all volumes at the old address that are of the class, in the order of their names.
pub(super) fn plan(volumes: &[Seen], pods: &Pods, provisioner: &str, request: &Rehome) -> Vec<Move> {
    let (mut moves, mut staying) = (Vec::new(), Vec::new());
    let there = volumes.iter().filter_map(|seen| Some((directory(&seen.volume, &request.to)?, &seen.volume)));
    let there: BTreeMap<Vec<String>, &Volume> = there.collect();
    for seen in at_from(volumes, provisioner, request) {
        if !is_of_class(&seen.volume, request) {
            staying.push(&seen.volume);
            continue;
        }
        let (to, obstacle) = match target(&seen.volume, request) {
            // Beneath the new address it is the same directory as beneath the old one.
            Some(Ok(to)) => {
                let taken = directory(&seen.volume, &request.from).and_then(|at| there.get(&at));
                (Some(to), obstacle(seen, taken.copied(), pods, request))
            }
            Some(Err(error)) => (None, Some(Obstacle::Path(error))),
            None => continue,
        };
        moves.push(Move { volume: seen.volume.clone(), to, obstacle });
    }
    moves.sort_by(|one, other| one.volume.name.cmp(&other.volume.name));
    leave_together(&mut moves, &staying, request);
    moves
}

fn obstacle(seen: &Seen, taken: Option<&Volume>, pods: &Pods, request: &Rehome) -> Option<Obstacle> {
    if seen.volume.deleting {
        return Some(Obstacle::Deleting);
    }
    if let Some(name) = &seen.other_finalizer {
        return Some(Obstacle::Finalizer(name.clone()));
    }
    if let Some(other) = taken {
        return Some(Obstacle::Taken(other.name.as_str().into()));
    }
    used(&seen.volume, pods, request)
}

/// Tells whether Pods use a volume's claim, and that matters.
pub(super) fn used(volume: &Volume, pods: &Pods, request: &Rehome) -> Option<Obstacle> {
    let claim = volume.own_claim().filter(|_| !request.in_use)?;
    let Some(Some(users)) = pods.get(&claim.namespace) else {
        return Some(Obstacle::NoRight(claim.namespace.clone()));
    };
    let users = users.iter().filter(|user| user.claims.iter().any(|used| **used == *claim.name));
    let users: Vec<String> = users.map(|user| user.name.clone()).collect();
    (!users.is_empty()).then_some(Obstacle::InUse(users))
}

/// Has volumes stay whose directories are shared with one that stays: a provisioner keeps a directory as long as it
/// sees another volume there, which it does not if that one's address is another.
fn leave_together(moves: &mut [Move], staying: &[&Volume], request: &Rehome) {
    let mut staying: BTreeMap<Vec<String>, Box<str>> = staying
        .iter()
        .filter_map(|volume| Some((directory(volume, &request.from)?, volume.name.as_str().into())))
        .collect();
    loop {
        for stays in moves.iter().filter(|each| each.obstacle.is_some()) {
            if let Some(at) = directory(&stays.volume, &request.from) {
                staying.entry(at).or_insert_with(|| stays.volume.name.as_str().into());
            }
        }
        let mut is_done = true;
        for each in moves.iter_mut().filter(|each| each.obstacle.is_none()) {
            let at = directory(&each.volume, &request.from).unwrap_or_default();
            if let Some(other) = sharing(&at, &staying) {
                each.obstacle = Some(Obstacle::Shares(other.into()));
                is_done = false;
            }
        }
        if is_done {
            return;
        }
    }
}

/// Finds a volume at, above or beneath a directory.
fn sharing<'a>(at: &[String], staying: &'a BTreeMap<Vec<String>, Box<str>>) -> Option<&'a str> {
    let mut above = (0..=at.len()).filter_map(|depth| staying.get(at.get(..depth)?));
    let beneath = || staying.range(at.to_vec()..).next().filter(|(other, _)| other.starts_with(at));
    above.next().or_else(|| beneath().map(|(_, name)| name)).map(|name| &**name)
}

/// A line of the plan.
#[derive(Debug)]
pub(super) struct Line {
    /// The volume's name.
    pub(super) volume: String,
    /// The volume's claim, if it has one.
    pub(super) claim: String,
    /// The new address.
    pub(super) to: String,
    /// What is to be said of it.
    pub(super) note: String,
}

impl Line {
    /// Makes the line of a volume.
    pub(super) fn new(volume: &Volume, to: Option<&NfsSource>, note: &str) -> Self {
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        Self {
            volume: volume.name.to_string(),
            claim: or_dash(volume.claim.as_ref().map(ToString::to_string)),
            to: or_dash(to.map(|to| format!("{}:{}", to.server, to.path))),
            note: note.to_owned(),
        }
    }
}

/// Prints lines as a table with a header.
pub(super) fn table(lines: &[Line]) -> String {
    let header = ["VOLUME", "CLAIM", "TO", "IN THE WAY"].map(ToOwned::to_owned);
    let cells = |line: &Line| [&line.volume, &line.claim, &line.to, &line.note].map(|text| printable(text));
    let rows: Vec<[String; 4]> = std::iter::once(header).chain(lines.iter().map(cells)).collect();
    let width = |column: usize| rows.iter().filter_map(|row| Some(row.get(column)?.chars().count())).max();
    let widths: Vec<usize> = (0..4).map(|column| width(column).unwrap_or_default()).collect();
    let mut text = String::new();
    for row in &rows {
        let padded: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text.push_str(padded.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// The namespaces whose Pods are to be looked at.
pub(super) fn namespaces<'a>(volumes: impl Iterator<Item = &'a Volume>) -> BTreeSet<Box<str>> {
    volumes.filter_map(|volume| Some(volume.own_claim()?.namespace.clone())).collect()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::PersistentVolume;
    use serde_json::{Value, json};

    use super::*;

    fn request(from: &str, to: &str) -> Rehome {
        let address = |text| ExportAddress::parse(text).unwrap();
        Rehome { from: address(from), to: address(to), class: None, in_use: false, yes: false }
    }

    /// A volume of ours at `path` of the server nas, with the claim shop/<name>, and what `change` does to it.
    fn seen(name: &str, path: &str, change: impl Fn(&mut Value)) -> Seen {
        let mut object = json!({
            "metadata": {"name": name, "uid": name, "annotations": {"pv.kubernetes.io/provisioned-by": "us"}},
            "spec": {
                "claimRef": {"namespace": "shop", "name": name, "uid": name}, "storageClassName": "nfs",
                "nfs": {"server": "nas", "path": path},
            },
        });
        change(&mut object);
        let volume: PersistentVolume = serde_json::from_value(object).unwrap();
        Seen { volume: Volume::read(&volume), other_finalizer: None }
    }

    fn at(name: &str, path: &str) -> Seen {
        seen(name, path, |_| {})
    }

    fn nobody() -> Pods {
        [("shop".into(), Some(Vec::new()))].into()
    }

    /// The names of the volumes, and where they go or what is in the way.
    fn planned(volumes: &[Seen], pods: &Pods, request: &Rehome) -> Vec<String> {
        let moves = plan(volumes, pods, "us", request);
        let words = |each: &Move| match (&each.obstacle, &each.to) {
            (Some(obstacle), _) => format!("{}! {obstacle}", each.volume.name),
            (None, Some(to)) => format!("{} {}:{}", each.volume.name, to.server, to.path),
            (None, None) => "?".to_owned(),
        };
        moves.iter().map(words).collect()
    }

    #[test]
    fn what_lies_at_the_old_address_or_beneath_it_goes_and_nothing_else() {
        let volumes = [
            at("a", "/export/a"),
            at("b", "/export//b/./c/"),
            at("c", "/export2/c"),
            at("d", "/exports"),
            at("e", "/other"),
            seen("f", "/export/f", |object| object["spec"]["nfs"]["server"] = "nas2".into()),
            seen("g", "/export/g", |object| {
                object["metadata"]["annotations"]["pv.kubernetes.io/provisioned-by"] = "them".into();
            }),
            seen("h", "/export/h", |object| {
                object["metadata"]["annotations"] =
                    json!({"pv.kubernetes.io/provisioned-by": "them", "pv.kubernetes.io/migrated-to": "us"});
            }),
            seen("i", "/export/i", |object| object["spec"]["nfs"] = Value::Null),
        ];
        let request = request("nas:/export", "[fd00::1]:/new");
        let expected = ["a fd00::1:/new/a", "b fd00::1:/new/b/c", "h fd00::1:/new/h"];
        assert_eq!(planned(&volumes, &nobody(), &request), expected);
        assert_eq!(planned(&[at("a", "/export")], &nobody(), &request), ["a fd00::1:/new"]);
        assert_eq!(planned(&[at("a", "/a")], &nobody(), &self::request("nas:/", "nas2:/")), ["a nas2:/a"]);
        let other = Rehome { class: Some("fast".to_owned()), ..request };
        assert_eq!(planned(&volumes, &nobody(), &other), [""; 0]);
    }

    #[test]
    fn what_stands_in_the_way_is_said_for_each_volume() {
        let pod = |name: &str, claim: &str| User { name: name.to_owned(), claims: vec![claim.to_owned()] };
        let many = ["p1", "p2", "p3", "p4"].map(|name| pod(name, "used"));
        let pods: Pods = [("shop".into(), Some(many.into())), ("secret".into(), None)].into();
        let backup = Seen { other_finalizer: Some("x.com/backup".into()), ..at("finalizer", "/export/finalizer") };
        let volumes = [
            seen("deleting", "/export/deleting", |object| {
                object["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
            }),
            backup,
            at("free", "/export/free"),
            seen("no-claim", "/export/no-claim", |object| object["spec"]["claimRef"] = Value::Null),
            at("path", "/export/../path"),
            seen("secret", "/export/secret", |object| object["spec"]["claimRef"]["namespace"] = "secret".into()),
            at("taken", "/export/taken"),
            seen("there", "/new//taken", |object| object["spec"]["nfs"]["server"] = "nas2".into()),
            at("used", "/export/used"),
        ];
        let mut request = request("nas:/export", "nas2:/new");
        let deleting = "deleting! it is being deleted";
        let finalizer =
            "finalizer! whoever set its finalizer \"x.com/backup\" may act on a deletion: take it off first";
        let path = "path! its path contains a '..' component";
        let taken = "taken! the volume there is there already: delete the one that is wrong";
        let expected = [
            deleting,
            finalizer,
            "free nas2:/new/free",
            "no-claim nas2:/new/no-claim",
            path,
            "secret! whether Pods use it is not known: grant list on pods in the namespace secret, or add --in-use",
            taken,
            "used! used by Pods (p1, p2, p3 and 1 more): stop them, or add --in-use",
        ];
        assert_eq!(planned(&volumes, &pods, &request), expected);
        request.in_use = true;
        let expected = [
            deleting,
            finalizer,
            "free nas2:/new/free",
            "no-claim nas2:/new/no-claim",
            path,
            "secret nas2:/new/secret",
            taken,
            "used nas2:/new/used",
        ];
        assert_eq!(planned(&volumes, &Pods::new(), &request), expected);
    }

    #[test]
    fn volumes_that_share_a_directory_go_together_or_stay() {
        let used = [User { name: "pod".to_owned(), claims: vec!["used".to_owned()] }];
        let pods: Pods = [("shop".into(), Some(used.into()))].into();
        let fast = |object: &mut Value| object["spec"]["storageClassName"] = "fast".into();
        let volumes = [
            at("above", "/export/team"),
            at("beside", "/export/team2"),
            at("far", "/export/team/other"),
            at("used", "/export/team/data"),
            seen("fast", "/export/fast", fast),
            at("in-fast", "/export/fast/x"),
        ];
        let request = request("nas:/export", "nas2:/new");
        let stays = |name: &str, with: &str| {
            format!("{name}! its directory is also that of the volume {with}, which stays")
        };
        let expected = [
            stays("above", "used"),
            "beside nas2:/new/team2".to_owned(),
            stays("far", "above"),
            "fast nas2:/new/fast".to_owned(),
            "in-fast nas2:/new/fast/x".to_owned(),
            "used! used by Pods (pod): stop them, or add --in-use".to_owned(),
        ];
        assert_eq!(planned(&volumes, &pods, &request), expected);
        let of_class = Rehome { class: Some("nfs".to_owned()), in_use: true, ..request };
        let planned = planned(&volumes, &pods, &of_class);
        assert!(planned.contains(&stays("in-fast", "fast")) && planned.len() == 5, "{planned:?}");
    }

    #[test]
    fn the_table_is_aligned_and_shows_no_control_characters() {
        let volume = at("a", "/export/a").volume;
        let to = NfsSource { server: "nas2".into(), path: "/new/a\u{1b}[1m".into() };
        let lines = [Line::new(&volume, Some(&to), "nothing"), Line::new(&volume, None, "x")];
        let expected = "VOLUME  CLAIM   TO                  IN THE WAY\n\
                        a       shop/a  nas2:/new/a\u{fffd}[1m   nothing\n\
                        a       shop/a  -                   x\n";
        let squeezed = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        let found = table(&lines);
        assert_eq!(squeezed(&found), squeezed(expected));
        let starts: Vec<_> = found.lines().map(|line| line.find("shop").or_else(|| line.find("CLAIM"))).collect();
        assert!(starts.iter().all(|start| *start == Some(8)), "{found}");
    }
}
