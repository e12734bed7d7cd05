//! What happens to the directories of an export, as the kernel tells it.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use nfs_provisioner::layout::{ARCHIVE_PREFIX, RESERVED_PREFIX, TRASH};
use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};

use crate::checker::{Move, Time, To};

/// Takes down where directories go, until it is ended.
pub(crate) struct Journal {
    ended: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Move>>,
}

impl Journal {
    /// Begins one of an export. What is moved is told only where it has been for a moment.
    pub(crate) fn begin(export: PathBuf) -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).expect("inotify");
        let mut writer =
            Writer { export, inotify, watched: HashMap::new(), leaving: HashMap::new(), moves: vec![] };
        writer.watch("");
        let is_ended = Arc::clone(&ended);
        let thread = std::thread::spawn(move || {
            loop {
                let last = is_ended.load(Ordering::SeqCst);
                match writer.inotify.read_events() {
                    Ok(events) => events.into_iter().for_each(|event| writer.take_down(event)),
                    Err(Errno::EAGAIN) if last => return writer.moves,
                    Err(Errno::EAGAIN) => std::thread::sleep(Duration::from_millis(2)),
                    Err(error) => panic!("inotify: {error}"),
                }
            }
        });
        Self { ended, thread }
    }

    /// Ends it, and returns what has been moved, in order.
    pub(crate) fn end(self) -> Vec<Move> {
        self.ended.store(true, Ordering::SeqCst);
        self.thread.join().expect("a journal")
    }
}

pub(crate) fn now() -> Time {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a clock");
    Time::try_from(since.as_micros()).expect("a time")
}

struct Writer {
    export: PathBuf,
    inotify: Inotify,
    /// Where each directory is now, beneath the export.
    watched: HashMap<WatchDescriptor, String>,
    /// Directories of which only the first half of a move has been told.
    leaving: HashMap<u32, String>,
    moves: Vec<Move>,
}

impl Writer {
    /// Watches a directory and those in it; of the provisioner's own, which nobody has a part in, those only whose
    /// entries come from volumes' directories.
    fn watch(&mut self, path: &str) {
        if path.starts_with(RESERVED_PREFIX) && path != TRASH {
            return;
        }
        let flags = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_ONLYDIR
            | AddWatchFlags::IN_DONT_FOLLOW;
        // It may have gone again.
        let Ok(watched) = self.inotify.add_watch(&self.export.join(path), flags) else { return };
        self.watched.insert(watched, path.to_owned());
        let Ok(entries) = fs::read_dir(self.export.join(path)) else { return };
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                self.watch(&joined(path, &entry.file_name().to_string_lossy()));
            }
        }
    }

    fn take_down(&mut self, event: InotifyEvent) {
        assert!(!event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW), "more happened than the kernel could tell");
        if event.mask.contains(AddWatchFlags::IN_IGNORED) {
            self.watched.remove(&event.wd);
        }
        let (Some(name), true) = (event.name, event.mask.contains(AddWatchFlags::IN_ISDIR)) else { return };
        let Some(directory) = self.watched.get(&event.wd) else { return };
        let path = joined(directory, &name.to_string_lossy());
        if event.mask.contains(AddWatchFlags::IN_CREATE) {
            self.watch(&path);
        } else if event.mask.contains(AddWatchFlags::IN_DELETE) {
            self.note(path, To::Nowhere);
        } else if event.mask.contains(AddWatchFlags::IN_MOVED_FROM) {
            self.leaving.insert(event.cookie, path);
        } else if event.mask.contains(AddWatchFlags::IN_MOVED_TO) {
            match self.leaving.remove(&event.cookie) {
                Some(from) => {
                    self.rename(&from, &path);
                    self.note(from, destination(path));
                }
                // A copy that is put into its place.
                None => self.watch(&path),
            }
        }
    }

    fn note(&mut self, path: String, to: To) {
        if !path.starts_with(RESERVED_PREFIX) && !path.starts_with(ARCHIVE_PREFIX) {
            self.moves.push(Move { path, to, at: now() });
        }
    }

    /// Notes where a directory and those in it are now. What is in the trash is of no interest any more.
    fn rename(&mut self, from: &str, to: &str) {
        let beneath = format!("{from}/");
        let mut ended = Vec::new();
        for (watched, path) in &mut self.watched {
            if path != from && !path.starts_with(&beneath) {
                continue;
            }
            if to.starts_with(RESERVED_PREFIX) {
                ended.push(*watched);
            } else {
                *path = format!("{to}{}", &path[from.len()..]);
            }
        }
        for watched in ended {
            self.watched.remove(&watched);
            // It may have been removed by now.
            let _ = self.inotify.rm_watch(watched);
        }
    }
}

fn joined(directory: &str, name: &str) -> String {
    Path::new(directory).join(name).to_string_lossy().into_owned()
}

fn destination(path: String) -> To {
    if path.starts_with(TRASH) {
        To::Trash
    } else if path.starts_with(ARCHIVE_PREFIX) {
        To::Archive(path)
    } else {
        To::Elsewhere(path)
    }
}
