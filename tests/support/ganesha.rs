//! A real NFS server of this process's own, which exports a directory of this machine: nfs-ganesha from Debian's
//! packages, which are unpacked and not installed.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

/// What the server is made of, and what few systems have that it needs.
const PACKAGES: &[&str] = &[
    "nfs-ganesha",
    "nfs-ganesha-vfs",
    "libntirpc4.3",
    "liburcu8",
    "libwbclient0",
    "libnfsidmap1",
    "libdbus-1-3",
    "libbsd0",
    "libmd0",
    "libacl1",
];

/// What the server exports, by this name.
pub(crate) const PSEUDO: &str = "/export";

/// Returns the port of a server that exports the directory for temporary files; why there is none, if so.
pub(crate) fn port() -> Result<u16, String> {
    static PORT: OnceLock<Result<u16, String>> = OnceLock::new();
    PORT.get_or_init(|| start(&std::env::temp_dir())).clone()
}

/// Returns the path at the server of a directory for temporary files.
pub(crate) fn path_of(directory: &Path) -> String {
    let beneath = directory.strip_prefix(std::env::temp_dir()).unwrap();
    format!("{PSEUDO}/{}", beneath.to_str().unwrap())
}

fn start(exported: &Path) -> Result<u16, String> {
    let files = unpacked()?;
    let port = TcpListener::bind("127.0.0.1:0").and_then(|any| any.local_addr()).unwrap().port();
    let own = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("ganesha-{}", std::process::id()));
    fs::create_dir_all(own.join("recovery")).unwrap();
    let libraries = files.join("usr/lib/x86_64-linux-gnu");
    let settings = format!(
        r#"
NFS_CORE_PARAM {{ NFS_Port = {port}; Protocols = 4; Enable_NLM = false; Enable_RQUOTA = false;
    Plugins_Dir = "{plugins}"; }}
NFS_KRB5 {{ Active_krb5 = false; }}
MDCACHE {{ Dir_Chunk = 0; }}
EXPORT_DEFAULTS {{ Attr_Expiration_Time = 0; }}
NFSv4 {{ Graceless = true; Minor_Versions = 1, 2; Only_Numeric_Owners = true; RecoveryBackend = fs;
    RecoveryRoot = "{recovery}"; }}
EXPORT {{ Export_Id = 1; Path = "{exported}"; Pseudo = "{PSEUDO}"; Access_Type = RW; Squash = No_Root_Squash;
    SecType = sys; Protocols = 4; Transports = TCP; PrivilegedPort = false; FSAL {{ Name = VFS; }} }}
LOG {{ Default_Log_Level = EVENT; }}
"#,
        plugins = libraries.join("ganesha").display(),
        recovery = own.join("recovery").display(),
        exported = exported.display(),
    );
    fs::write(own.join("conf"), settings).unwrap();
    let mut server = Command::new("setpriv");
    server.args(["--pdeathsig", "KILL", "--"]).arg(files.join("usr/bin/ganesha.nfsd")).arg("-F");
    server.arg("-f").arg(own.join("conf")).arg("-L").arg(own.join("log")).arg("-p").arg(own.join("pid"));
    let own_libraries = files.join("usr/lib/ganesha");
    server.env("LD_LIBRARY_PATH", format!("{}:{}", own_libraries.display(), libraries.display()));
    server.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // It ends with the thread that has started it, so not with any test.
    thread::spawn(move || server.spawn().and_then(|mut server| server.wait()));
    let begun = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        let log = own.join("log");
        assert!(begun.elapsed() < Duration::from_secs(30), "the server does not start, see {}", log.display());
        thread::sleep(Duration::from_millis(50));
    }
    Ok(port)
}

/// Fetches the packages and unpacks them, once for all tests.
fn unpacked() -> Result<PathBuf, String> {
    let tools = Path::new(env!("CARGO_TARGET_TMPDIR")).join("../tools");
    fs::create_dir_all(&tools).unwrap();
    let files = tools.join("ganesha");
    let lock = fs::File::create(tools.join("ganesha.lock")).unwrap();
    lock.lock().unwrap();
    if files.exists() {
        return Ok(files);
    }
    let aside = tools.join("ganesha.new");
    let _ = fs::remove_dir_all(&aside);
    fs::create_dir(&aside).unwrap();
    let apt = |arguments: &[&str]| {
        let mut apt = Command::new("apt-get");
        apt.args(["--quiet", "--quiet"]).args(arguments).current_dir(&aside);
        apt.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    };
    let download = || apt(&[&["download"], PACKAGES].concat());
    if !(download() || (apt(&["update"]) && download())) {
        return Err(format!("Debian's packages {}", PACKAGES.join(" ")));
    }
    for package in fs::read_dir(&aside).unwrap() {
        let package = package.unwrap().path();
        let unpacked = Command::new("dpkg").arg("-x").arg(&package).arg(&aside).status();
        assert!(unpacked.is_ok_and(|status| status.success()), "{} cannot be unpacked", package.display());
        fs::remove_file(&package).unwrap();
    }
    fs::rename(&aside, &files).unwrap();
    Ok(files)
}
