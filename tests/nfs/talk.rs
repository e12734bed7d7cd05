//! What the tests ask of the agent in the guest: one request and one answer a connection, each a line of JSON.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Where the agent listens in the guest.
pub(crate) const PORT: u16 = 700;

/// Who does it: the user and group of a call on files.
pub(crate) const ROOT: u32 = 0;

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Runs a program to its end.
    Run(Vec<String>),
    /// Runs a program in the namespaces of a server, to its end.
    RunOn(String, Vec<String>),
    /// Starts a program that goes on. Its standard error is appended to the file `log`.
    Start { command: Vec<String>, environment: Vec<(String, String)>, log: PathBuf },
    /// Sends a signal to a program that was started.
    Signal { id: u32, signal: String },
    /// Whether a program that was started still runs: `None`, or how it ended.
    Ended { id: u32 },
    /// A call on files, by a user.
    File { user: u32, call: FileCall },
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum FileCall {
    MakeDir {
        path: PathBuf,
        mode: u32,
    },
    Write {
        path: PathBuf,
        text: String,
    },
    Read {
        path: PathBuf,
    },
    /// The names in a directory, sorted.
    List {
        path: PathBuf,
    },
    Stat {
        path: PathBuf,
    },
    SetMode {
        path: PathBuf,
        mode: u32,
    },
    SetOwner {
        path: PathBuf,
        owner: u32,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
    },
    /// As [`FileCall::Rename`], and must not replace anything.
    RenameNew {
        from: PathBuf,
        to: PathBuf,
    },
    /// Makes directories with files in them.
    MakeTree {
        path: PathBuf,
        directories: u32,
        files: u32,
    },
    /// Opens a file or directory and keeps it open under a name.
    Hold {
        path: PathBuf,
        name: String,
    },
    /// What a file that is held open contains, or the names in a directory.
    ReadHeld {
        name: String,
    },
    Release {
        name: String,
    },
    /// Makes and removes a directory so many times.
    Ping {
        path: PathBuf,
        times: u32,
    },
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    Done,
    Text(String),
    Names(Vec<String>),
    Number(u64),
    Status(Status),
    /// A program has ended: its exit status, `None` after a signal, and what it has printed.
    Ended {
        status: Option<i32>,
        output: String,
    },
    Runs,
    /// The system call failed: the number of the error.
    Refused(i32),
    /// The agent could not do it.
    Failed(String),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Status {
    pub(crate) inode: u64,
    pub(crate) device: u64,
    pub(crate) mode: u32,
    pub(crate) owner: u32,
    pub(crate) group: u32,
    pub(crate) size: u64,
}
