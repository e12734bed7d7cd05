//! The agent: the guest's first process once it is up. Does what the tests ask for, see `talk.rs`.
//!
//! Each request has a thread of its own, so one that hangs because its server does not answer keeps no other.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::{io, thread};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::unistd::{Gid, Uid, setfsgid, setfsuid};

use crate::talk::{Answer, FileCall, PORT, ROOT, Request, Status};

/// What outlives a request.
#[derive(Default)]
struct Kept {
    children: Mutex<HashMap<u32, Child>>,
    held: Mutex<HashMap<String, File>>,
}

/// Never returns: the guest ends with its first process.
pub(crate) fn serve() -> ! {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).expect("a port");
    let kept = Arc::new(Kept::default());
    loop {
        let Ok((stream, _)) = listener.accept() else { continue };
        let kept = Arc::clone(&kept);
        thread::spawn(move || {
            // The other end may have lost patience.
            let _ = answer(stream, &kept);
        });
    }
}

fn answer(mut stream: TcpStream, kept: &Kept) -> io::Result<()> {
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line)?;
    let answer = serde_json::from_str(&line)
        .map_err(io::Error::from)
        .and_then(|request| carry_out(request, kept))
        .unwrap_or_else(|error| match error.raw_os_error() {
            Some(number) => Answer::Refused(number),
            None => Answer::Failed(error.to_string()),
        });
    let mut line = serde_json::to_string(&answer)?;
    line.push('\n');
    stream.write_all(line.as_bytes())
}

fn carry_out(request: Request, kept: &Kept) -> io::Result<Answer> {
    match request {
        Request::Run(command) => run(&command),
        Request::RunOn(server, command) => {
            let holder = fs::read_to_string(format!("/run/servers/{server}.pid"))?;
            let enter = ["nsenter", "--net", "--mount", "--target", holder.trim()];
            run(&enter.into_iter().map(str::to_owned).chain(command).collect::<Vec<_>>())
        }
        Request::Start { command, environment, log } => {
            let log = File::options().create(true).append(true).open(log)?;
            let mut program = self::command(&command)?;
            let child =
                program.env_clear().envs(environment).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
            let child = child.spawn()?;
            let id = child.id();
            lock(&kept.children).insert(id, child);
            Ok(Answer::Number(id.into()))
        }
        Request::Signal { id, signal } => run(&["kill", "-s", &signal, &id.to_string()].map(str::to_owned)),
        Request::Ended { id } => {
            let mut children = lock(&kept.children);
            let child = children.get_mut(&id).ok_or_else(|| io::Error::other("no such program was started"))?;
            Ok(child
                .try_wait()?
                .map_or(Answer::Runs, |status| Answer::Ended { status: status.code(), output: String::new() }))
        }
        Request::File { user, call } => {
            // Those of this thread only, which ends with the request. A user who is not root has no rights beyond
            // his own: the kernel takes them away with the number.
            if user != ROOT {
                setfsgid(Gid::from_raw(user));
                setfsuid(Uid::from_raw(user));
            }
            file(call, kept)
        }
    }
}

fn command(words: &[String]) -> io::Result<Command> {
    let (program, arguments) = words.split_first().ok_or_else(|| io::Error::other("no command"))?;
    let mut command = Command::new(program);
    command.args(arguments);
    Ok(command)
}

fn run(words: &[String]) -> io::Result<Answer> {
    let output = command(words)?.stdin(Stdio::null()).output()?;
    let text = [output.stdout, output.stderr].concat();
    Ok(Answer::Ended { status: output.status.code(), output: String::from_utf8_lossy(&text).into_owned() })
}

fn file(call: FileCall, kept: &Kept) -> io::Result<Answer> {
    match call {
        FileCall::MakeDir { path, mode } => {
            fs::DirBuilder::new().mode(mode).create(&path)?;
            fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
        }
        FileCall::Write { path, text } => {
            let mut file = File::create(path)?;
            file.write_all(text.as_bytes())?;
            // What the server thinks of it is known only then.
            file.sync_all()?;
        }
        FileCall::Read { path } => return Ok(Answer::Text(fs::read_to_string(path)?)),
        FileCall::List { path } => return list(&path),
        FileCall::Stat { path } => {
            let found = fs::symlink_metadata(path)?;
            return Ok(Answer::Status(Status {
                inode: found.ino(),
                device: found.dev(),
                mode: found.mode() & 0o7777,
                owner: found.uid(),
                group: found.gid(),
                size: found.size(),
            }));
        }
        FileCall::SetMode { path, mode } => fs::set_permissions(path, fs::Permissions::from_mode(mode))?,
        FileCall::SetOwner { path, owner } => std::os::unix::fs::lchown(path, Some(owner), Some(owner))?,
        FileCall::Rename { from, to } => fs::rename(from, to)?,
        FileCall::RenameNew { from, to } => {
            renameat2(AT_FDCWD, &from, AT_FDCWD, &to, RenameFlags::RENAME_NOREPLACE)?;
        }
        FileCall::MakeTree { path, directories, files } => {
            for directory in 0..directories {
                let directory = path.join(format!("directory-{directory}"));
                fs::create_dir(&directory)?;
                for file in 0..files {
                    File::create(directory.join(format!("file-{file}")))?;
                }
            }
        }
        FileCall::Hold { path, name } => {
            let file = File::open(path)?;
            lock(&kept.held).insert(name, file);
        }
        FileCall::ReadHeld { name } => {
            let mut file = {
                let held = lock(&kept.held);
                held.get(&name).ok_or_else(|| io::Error::other("nothing of this name is held"))?.try_clone()?
            };
            if file.metadata()?.is_dir() {
                return list(Path::new(&format!("/proc/self/fd/{}", file.as_raw_fd())));
            }
            let mut text = String::new();
            file.seek(SeekFrom::Start(0))?;
            file.read_to_string(&mut text)?;
            return Ok(Answer::Text(text));
        }
        FileCall::Release { name } => {
            lock(&kept.held).remove(&name);
        }
        FileCall::Ping { path, times } => {
            for _ in 0..times {
                fs::create_dir(&path)?;
                fs::remove_dir(&path)?;
            }
        }
    }
    Ok(Answer::Done)
}

fn list(path: &Path) -> io::Result<Answer> {
    let names = fs::read_dir(path)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let mut names = names.collect::<io::Result<Vec<_>>>()?;
    names.sort();
    Ok(Answer::Names(names))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
