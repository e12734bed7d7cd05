//! Tells what is mounted where the export should be.
//!
//! Directories made on an empty mount point are lost as soon as something is mounted over them, so it is worth a
//! look before the first one is made.

use std::fmt;

use crate::values::address::ExportAddress;

/// A mount, as /proc/self/mountinfo tells of it (`proc_pid_mountinfo(5)`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// The file system's kind, as "nfs4".
    kind: String,
    /// What is mounted, as `nas:/export`.
    source: String,
    /// The address that the client has found for the server's name, where the kernel tells.
    address: Option<String>,
    /// The options: of this mount, then of the file system.
    options: Vec<String>,
}

impl Mount {
    /// Finds the mount with this number in a mount table.
    #[must_use]
    pub fn find(table: &str, id: u64) -> Option<Self> {
        let line = table.lines().find(|line| line.split(' ').next() == Some(&*id.to_string()))?;
        // Before the dash stands where it is mounted, after it what.
        let (place, what) = line.split_once(" - ")?;
        let mut what = what.split(' ');
        let (kind, source) = (what.next()?.to_owned(), unescaped(what.next()?));
        let mut options: Vec<String> = Vec::new();
        for option in [place.split(' ').nth(5), what.next()].into_iter().flatten().flat_map(|all| all.split(',')) {
            if !options.iter().any(|known| known == option) {
                options.push(option.to_owned());
            }
        }
        let address = options.iter().find_map(|option| option.strip_prefix("addr=")).map(ToOwned::to_owned);
        Some(Self { kind, source, address, options })
    }

    /// Tells whether the kernel's NFS client has mounted it.
    #[must_use]
    pub fn is_nfs(&self) -> bool {
        matches!(&*self.kind, "nfs" | "nfs4")
    }

    /// Tells whether the mount has this option.
    #[must_use]
    pub fn has(&self, option: &str) -> bool {
        self.options.iter().any(|found| found == option)
    }

    /// Returns the name by which the server was called when this was mounted; `None` if it is no NFS mount.
    #[must_use]
    pub fn server(&self) -> Option<&str> {
        let (server, _) = self.source.split_once(":/").filter(|_| self.is_nfs())?;
        Some(server)
    }

    /// Says in what the mount differs from `expected`, as far as text can tell: a server can have several names,
    /// and one directory several paths.
    #[must_use]
    pub fn difference(&self, expected: &ExportAddress) -> Option<String> {
        if !self.is_nfs() {
            return Some(format!("it is not an NFS mount, but of the kind {:?}", self.kind));
        }
        // A server's name has no slash.
        let (server, path) = self.source.split_once(":/").unwrap_or((&self.source, ""));
        let is_server = |name: &str| expected.is_on(name);
        let same_server = is_server(server) || self.address.as_deref().is_some_and(is_server);
        let same_path = ExportAddress::path(&format!("/{path}")).is_ok_and(|path| expected.is_at(&path));
        let alias = "which is right only if both lead to the same directory";
        (!same_server || !same_path)
            .then(|| format!("it is a mount of {}, not of {expected}, {alias}", self.source))
    }
}

/// Says what is mounted, and how.
impl fmt::Display for Mount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}, {})", self.source, self.kind, self.options.join(","))
    }
}

/// Undoes the kernel's writing of blanks and the like as `\040`.
fn unescaped(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let code = after.get(..3).filter(|_| *first == b'\\').and_then(|code| std::str::from_utf8(code).ok());
        if let Some(byte) = code.and_then(|code| u8::from_str_radix(code, 8).ok()) {
            bytes.push(byte);
            rest = after.get(3..).unwrap_or_default();
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime shared:1 master:2 - ext4 /dev/vda rw,discard
36 27 0:45 / /pv rw,relatime - nfs4 nas:/export/k rw,vers=4.2,proto=tcp,clientaddr=10.0.0.2,addr=10.0.0.1
37 27 0:46 / /six rw - nfs [fd00::1]:/export/k rw,vers=3,addr=fd00::1
38 27 0:47 / /blank rw - nfs4 nas:/my\\040export rw
39 27 0:48 / /root rw - nfs4 nas:/ rw";

    fn export(server: &str, path: &str) -> ExportAddress {
        ExportAddress::new(ExportAddress::server(server).unwrap(), ExportAddress::path(path).unwrap())
    }

    #[test]
    fn what_is_mounted_is_compared_with_what_should_be() {
        let rows = [
            (36, "nas", "/export/k/", None),
            (36, "10.0.0.1", "/export/k", None),
            (
                36,
                "NAS.example.com",
                "/export/k",
                Some("a mount of nas:/export/k, not of NAS.example.com:/export/k"),
            ),
            (36, "nas", "/export", Some("a mount of nas:/export/k, not of nas:/export")),
            (37, "[fd00::1]", "/export/k", None),
            (37, "fd00::1", "/export/k", None),
            (38, "nas", "/my export", None),
            (39, "nas", "/", None),
            (39, "nas", "/export", Some("not of nas:/export")),
            (27, "nas", "/export", Some("not an NFS mount, but of the kind \"ext4\"")),
            (22, "nas", "/export", Some("\"proc\"")),
        ];
        for (id, server, path, expected) in rows {
            let found = Mount::find(TABLE, id).unwrap().difference(&export(server, path));
            match expected {
                None => assert_eq!(found, None, "{id} {server}:{path}"),
                Some(words) => assert!(found.as_ref().is_some_and(|found| found.contains(words)), "{found:?}"),
            }
        }
    }

    #[test]
    fn options_are_those_of_the_mount_and_of_the_file_system() {
        let mount = Mount::find(TABLE, 36).unwrap();
        let expected = "nas:/export/k (nfs4, rw,relatime,vers=4.2,proto=tcp,clientaddr=10.0.0.2,addr=10.0.0.1)";
        assert_eq!(mount.to_string(), expected);
        assert!(mount.has("relatime") && mount.has("vers=4.2") && !mount.has("vers") && !mount.has("ro"));
    }

    #[test]
    fn a_mount_that_is_not_in_the_table_is_not_made_up() {
        for table in [TABLE, "", "36", "36 27 0:45 / /pv rw - nfs4", "3 - nfs"] {
            assert_eq!(Mount::find(table, 3), None, "{table}");
        }
    }
}
