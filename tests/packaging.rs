//! The image, the plugin for kubectl, and the workflows that release them.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    missing_docs,
    reason = "a test that cannot go on panics"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

#[allow(dead_code, reason = "its main is cargo's to call")]
#[path = "../build.rs"]
mod build;
#[allow(dead_code, reason = "its main is a program's")]
#[path = "../examples/shell.rs"]
mod shell;

fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Runs a program, and panics if it fails.
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// An image of these binaries, as `make image` makes it.
fn image(archive: &Path, binaries: &[(&str, &Path)]) {
    let certificates = archive.with_extension("crt");
    fs::write(&certificates, "certificates\n").unwrap();
    let mut command = Command::new(project("deploy/image.sh"));
    command.arg(archive).arg("1.2.3").env("CERTIFICATES", certificates).env_remove("SOURCE_DATE_EPOCH");
    for (platform, binary) in binaries {
        command.arg(format!("{platform}={}", binary.display()));
    }
    run(&mut command);
}

/// An unpacked image, in which everything is read by its digest.
struct Layout(PathBuf);

impl Layout {
    fn of(archive: &Path) -> Self {
        let directory = archive.with_extension("layout");
        fs::create_dir(&directory).unwrap();
        run(Command::new("tar").arg("xf").arg(archive).arg("-C").arg(&directory));
        Self(directory)
    }

    /// The file that a descriptor means, once its digest and its size are as the descriptor says.
    fn file(&self, descriptor: &Value) -> PathBuf {
        let digest = descriptor["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
        let file = self.0.join("blobs/sha256").join(digest);
        assert_eq!(sha256(&file), digest);
        assert_eq!(descriptor["size"], fs::metadata(&file).unwrap().len());
        file
    }

    fn json(&self, descriptor: &Value) -> Value {
        serde_json::from_slice(&fs::read(self.file(descriptor)).unwrap()).unwrap()
    }

    /// What the image's index lists, after the one in `index.json` that has the names.
    fn manifests(&self) -> Vec<Value> {
        let version = fs::read_to_string(self.0.join("oci-layout")).unwrap();
        assert_eq!(version.trim(), r#"{"imageLayoutVersion":"1.0.0"}"#);
        let index: Value = serde_json::from_slice(&fs::read(self.0.join("index.json")).unwrap()).unwrap();
        assert_eq!(index["manifests"].as_array().unwrap().len(), 1);
        let named = &index["manifests"][0];
        assert_eq!(named["annotations"]["org.opencontainers.image.ref.name"], "1.2.3");
        self.json(named)["manifests"].as_array().unwrap().clone()
    }
}

fn sha256(file: &Path) -> String {
    run(Command::new("sha256sum").arg(file)).split(' ').next().unwrap().to_owned()
}

#[test]
fn an_image_holds_the_program_and_certificates_and_runs() {
    let directory = tempfile::tempdir().unwrap();
    // Without what is for debuggers, which would take most of the time.
    let stripped = directory.path().join("stripped");
    run(Command::new("strip").arg("-o").arg(&stripped).arg(env!("CARGO_BIN_EXE_nfs-provisioner")));
    let archive = directory.path().join("image.tar");
    image(&archive, &[("amd64", &stripped)]);
    let layout = Layout::of(&archive);
    let manifests = layout.manifests();
    let manifest = layout.json(&manifests[0]);
    let config = layout.json(&manifest["config"]);
    assert_eq!(config["config"]["Entrypoint"], serde_json::json!(["/nfs-provisioner"]));
    assert_eq!(config["config"]["Labels"]["org.opencontainers.image.version"], "1.2.3");

    assert_eq!(manifest["layers"].as_array().unwrap().len(), 1);
    let layer = layout.file(&manifest["layers"][0]);
    let unpacked = directory.path().join("layer.tar");
    fs::write(&unpacked, Command::new("gzip").arg("-dc").arg(layer).output().unwrap().stdout).unwrap();
    assert_eq!(config["rootfs"]["diff_ids"], serde_json::json!([format!("sha256:{}", sha256(&unpacked))]));
    let listed = run(Command::new("tar").args(["tv", "--numeric-owner", "-f"]).arg(&unpacked));
    let entries: BTreeSet<(&str, &str, &str)> = listed
        .lines()
        .map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            (fields[0], fields[1], *fields.last().unwrap())
        })
        .collect();
    let expected = [
        ("drwxr-xr-x", "0/0", "./"),
        ("drwxr-xr-x", "0/0", "./etc/"),
        ("drwxr-xr-x", "0/0", "./etc/ssl/"),
        ("drwxr-xr-x", "0/0", "./etc/ssl/certs/"),
        ("-rw-r--r--", "0/0", "./etc/ssl/certs/ca-certificates.crt"),
        ("-rwxr-xr-x", "0/0", "./nfs-provisioner"),
    ];
    assert_eq!(entries, expected.into_iter().collect());

    let root = directory.path().join("root");
    fs::create_dir(&root).unwrap();
    run(Command::new("tar").arg("xf").arg(&unpacked).arg("-C").arg(&root));
    let version = run(Command::new(root.join("nfs-provisioner")).arg("--version").env_clear());
    assert_eq!(version.trim(), concat!("nfs-provisioner ", env!("NFS_PROVISIONER_VERSION")));
}

#[test]
fn an_image_is_the_same_for_the_same_binaries_of_several_architectures() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    fs::write(at("one"), "one").unwrap();
    fs::write(at("two"), "two").unwrap();
    let (one, two) = (at("one"), at("two"));
    image(&at("first.tar"), &[("amd64", &one), ("arm/v7", &two)]);
    image(&at("second.tar"), &[("amd64", &one), ("arm/v7", &two)]);
    image(&at("third.tar"), &[("amd64", &two), ("arm/v7", &one)]);
    assert_eq!(fs::read(at("first.tar")).unwrap(), fs::read(at("second.tar")).unwrap());
    assert_ne!(fs::read(at("first.tar")).unwrap(), fs::read(at("third.tar")).unwrap());

    let layout = Layout::of(&at("first.tar"));
    let manifests = layout.manifests();
    assert_eq!(manifests.len(), 2);
    for (manifest, expected) in manifests.iter().zip([("amd64", Value::Null), ("arm", "v7".into())]) {
        let config = layout.json(&layout.json(manifest)["config"]);
        for described in [&manifest["platform"], &config] {
            assert_eq!((&described["architecture"], &described["variant"]), (&expected.0.into(), &expected.1));
            assert_eq!(described["os"], "linux");
        }
    }
}

#[test]
fn the_commit_is_that_of_a_repository_of_our_own() {
    let directory = tempfile::tempdir().unwrap();
    let inner = directory.path().join("unpacked");
    fs::create_dir(&inner).unwrap();
    assert_eq!(build::commit_of(&inner), None);
    let git = |arguments: &[&str]| {
        let identity = ["-c", "user.name=n", "-c", "user.email=e@example.com", "-c", "commit.gpgsign=false"];
        run(Command::new("git").arg("-C").arg(directory.path()).args(identity).args(arguments))
    };
    git(&["init", "--quiet"]);
    assert_eq!(build::commit_of(directory.path()), None);
    git(&["commit", "--quiet", "--allow-empty", "--message", "first"]);
    let commit = build::commit_of(directory.path()).unwrap();
    assert!(commit.len() >= 12 && git(&["rev-parse", "HEAD"]).starts_with(&commit), "{commit}");
    assert_eq!(build::commit_of(&inner), None);
}

#[test]
fn every_shell_gets_a_completion_script_and_man_a_page() {
    let directory = tempfile::tempdir().unwrap();
    shell::write(directory.path()).unwrap();
    let read = |name: &str| fs::read_to_string(directory.path().join(name)).unwrap();
    let scripts = [
        "nfs-provisioner.bash",
        "nfs-provisioner.elv",
        "nfs-provisioner.fish",
        "_nfs-provisioner.ps1",
        "_nfs-provisioner",
    ];
    for script in scripts {
        assert!(
            read(script).contains("nfs-mount-check") && read(script).contains("remove-finalizers"),
            "{script}"
        );
    }
    let ask = "source nfs-provisioner.bash; COMP_WORDS=(nfs-provisioner --nfs-mount-c); COMP_CWORD=1
        _nfs__provisioner nfs-provisioner --nfs-mount-c nfs-provisioner; echo \"${COMPREPLY[*]}\"";
    let completed = run(Command::new("bash").args(["-c", ask]).current_dir(&directory));
    assert_eq!(completed.trim(), "--nfs-mount-check");

    let page = read("nfs-provisioner.1");
    for words in [".TH nfs-provisioner 1", "NFS_MOUNT_CHECK", "remove\\-finalizers"] {
        assert!(page.contains(words), "{words}: {page}");
    }
}

#[test]
fn the_dockerfile_copies_all_that_cargo_wants_to_see() {
    let directory = tempfile::tempdir().unwrap();
    let dockerfile = fs::read_to_string(project("deploy/Dockerfile")).unwrap();
    let seen = fs::read_to_string(project(".dockerignore")).unwrap();
    for line in dockerfile.lines().filter_map(|line| line.strip_prefix("COPY ")) {
        let mut words: Vec<&str> = line.split_whitespace().collect();
        let to = words.pop().unwrap();
        if words[0].starts_with("--from") {
            continue;
        }
        for word in &words {
            assert!(seen.lines().any(|seen| seen == format!("!{word}")), "{word} is not in .dockerignore");
        }
        let to = directory.path().join(to);
        run(Command::new("cp").arg("-r").args(words.iter().map(|word| project(word))).arg(to));
    }
    assert!(directory.path().join("src/main.rs").exists());
    run(Command::new(env!("CARGO"))
        .args(["metadata", "--offline", "--no-deps", "--format-version=1"])
        .current_dir(&directory));
}

#[test]
fn the_workflows_are_what_github_reads() {
    let actionlint = project("target/tools/actionlint");
    assert!(actionlint.exists(), "{} is missing: run `make tools`", actionlint.display());
    let workflows: Vec<PathBuf> =
        fs::read_dir(project(".github/workflows")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(workflows.len() >= 2);
    run(Command::new(actionlint).args(["-shellcheck=", "-pyflakes="]).args(workflows));
}

fn workflow(name: &str) -> String {
    fs::read_to_string(project(".github/workflows").join(name)).unwrap()
}

/// Each action that is run is a commit, with its release beside it, and one of those that run on Node 24.
#[test]
fn the_workflows_pin_actions_that_runners_still_run() {
    let first = [
        ("actions/checkout", 5),
        ("actions/setup-go", 6),
        ("actions/cache", 5),
        ("actions/upload-artifact", 6),
        ("actions/download-artifact", 7),
    ];
    for name in ["ci.yaml", "release.yaml"] {
        let text = workflow(name);
        let uses: Vec<&str> =
            text.lines().filter_map(|line| line.split_once("uses: ")).map(|uses| uses.1).collect();
        assert!(!uses.is_empty());
        for uses in uses.iter().filter(|uses| !uses.starts_with("./")) {
            let (action, commit) = uses.split_once('@').unwrap();
            let (commit, release) = commit.split_once(" # v").unwrap_or_else(|| panic!("{uses}: no release"));
            assert!(commit.len() == 40 && commit.chars().all(|c| c.is_ascii_hexdigit()), "{uses}");
            let major: u32 = release.split('.').next().unwrap().parse().unwrap();
            let least = first.iter().find(|(known, _)| *known == action).unwrap_or_else(|| panic!("{action}")).1;
            assert!(major >= least, "{name}: {uses} runs on a Node that is not there any more");
        }
    }
}

#[test]
fn a_release_waits_for_the_tests() {
    let release: Value = serde_saphyr::from_str(&workflow("release.yaml")).unwrap();
    let ci: Value = serde_saphyr::from_str(&workflow("ci.yaml")).unwrap();
    assert!(ci["on"].as_object().unwrap().contains_key("workflow_call"));
    let steps = ci["jobs"]["test"]["steps"].as_array().unwrap();
    assert!(steps.iter().any(|step| step["run"] == ".ci/run"));
    assert_eq!(release["jobs"]["test"]["uses"], "./.github/workflows/ci.yaml");
    for (name, job) in release["jobs"].as_object().unwrap() {
        let writes =
            job["permissions"].as_object().is_some_and(|granted| granted.values().any(|right| right == "write"));
        let needs = job["needs"].as_array().into_iter().flatten().any(|needed| needed == "test");
        assert!(!writes || needs, "{name} publishes without waiting for the tests");
    }
    assert!(release["jobs"]["publish"]["permissions"]["contents"] == "write");
}

/// The oldest and the newest Kubernetes that is tested is what the documents and the chart say.
#[test]
fn the_documents_and_the_chart_name_the_versions_that_are_tested() {
    let read = |path: &str| fs::read_to_string(project(path)).unwrap();
    let minor = |version: &str| version.trim_start_matches('v').rsplit_once('.').unwrap().0.to_owned();
    let (makefile, module) = (read("Makefile"), read("tests/controlplane/go.mod"));
    let oldest = minor(makefile.lines().find_map(|line| line.strip_prefix("OLDEST := ")).unwrap());
    let newest = module.lines().find_map(|line| line.trim().strip_prefix("k8s.io/kubernetes v")).unwrap();
    let newest = minor(newest);
    for document in ["README.md", "docs/install.md", "CHANGELOG.md"] {
        let words = format!("Kubernetes {oldest} to {newest} is supported");
        assert!(read(document).contains(&words), "{document} does not say: {words}");
    }
    let chart: Value = serde_saphyr::from_str(&read("deploy/helm/nfs-provisioner/Chart.yaml")).unwrap();
    // Vendors put words of their own behind the version, which count as earlier than it.
    assert_eq!(chart["kubeVersion"], format!(">={oldest}.0-0"));
}

/// The plugin for kubectl and krew's manifest of it, as `make plugin` makes them.
fn plugin(directory: &Path, repository: &str) -> std::process::Output {
    let mut command = Command::new(project("deploy/kubectl-plugin/package.sh"));
    command.arg(directory).arg(repository).env_remove("SOURCE_DATE_EPOCH").output().unwrap()
}

/// Whether krew installs it: what its `ValidatePlugin` wants, and that it finds the files.
#[test]
fn krew_s_manifest_of_the_plugin_tells_of_the_archive_beside_it() {
    const REPOSITORY: &str = "https://example.com/someone/nfs-provisioner";
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let made = plugin(&at("first"), REPOSITORY);
    assert!(made.status.success(), "{made:?}");
    let text = fs::read_to_string(at("first/nfs-provisioner.yaml")).unwrap();
    assert!(!text.contains('@'), "something was not put in: {text}");
    let manifest: Value = serde_saphyr::from_str(&text).unwrap();
    assert_eq!(manifest["apiVersion"], "krew.googlecontainertools.github.com/v1alpha2");
    assert_eq!((&manifest["kind"], &manifest["metadata"]["name"]), (&"Plugin".into(), &"nfs-provisioner".into()));
    let spec = &manifest["spec"];
    assert_eq!(spec["version"], concat!("v", env!("CARGO_PKG_VERSION")));
    assert_eq!(spec["homepage"], REPOSITORY);
    let short = spec["shortDescription"].as_str().unwrap();
    assert!((1..=50).contains(&short.len()) && !short.contains('\n'), "{short}");

    let platforms = spec["platforms"].as_array().unwrap();
    assert_eq!(platforms.len(), 1);
    let platform = &platforms[0];
    let systems = serde_json::json!([{"key": "os", "operator": "In", "values": ["darwin", "linux"]}]);
    assert_eq!(platform["selector"]["matchExpressions"], systems);
    let released = concat!("/releases/download/v", env!("CARGO_PKG_VERSION"), "/kubectl-nfs_provisioner.tar.gz");
    assert_eq!(platform["uri"], format!("{REPOSITORY}{released}"));
    let archive = at("first/kubectl-nfs_provisioner.tar.gz");
    assert_eq!(platform["sha256"], sha256(&archive));

    // As kubectl wants the file of a plugin of this name to be called.
    assert_eq!(platform["bin"], "kubectl-nfs_provisioner");
    let unpacked = at("unpacked");
    fs::create_dir(&unpacked).unwrap();
    run(Command::new("tar").arg("xzf").arg(&archive).arg("-C").arg(&unpacked));
    let moved: BTreeSet<&str> = platform["files"]
        .as_array()
        .unwrap()
        .iter()
        .map(|file| {
            assert_eq!(file["to"], ".");
            file["from"].as_str().unwrap()
        })
        .collect();
    let packed: BTreeSet<String> =
        fs::read_dir(&unpacked).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(packed, ["LICENSE", "kubectl-nfs_provisioner"].map(str::to_owned).into());
    assert_eq!(moved, packed.iter().map(String::as_str).collect());
    let help = run(Command::new(unpacked.join("kubectl-nfs_provisioner")).arg("--help"));
    assert!(help.contains("kubectl nfs-provisioner [FLAG ...] COMMAND"), "{help}");
}

#[test]
fn the_archive_of_the_plugin_is_the_same_each_time_and_a_release_has_it() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    for name in ["first", "second"] {
        assert!(plugin(&at(name), "https://example.com/x").status.success());
        // The archive must not tell when it was made.
        std::thread::sleep(std::time::Duration::from_millis(1100));
    }
    for name in ["kubectl-nfs_provisioner.tar.gz", "nfs-provisioner.yaml"] {
        assert_eq!(sha256(&at("first").join(name)), sha256(&at("second").join(name)), "{name}");
    }
    for wrong in ["", "example.com/x", "https://example.com/x|e", "https://example.com/x/", "https://<owner>/x"] {
        let refused = plugin(&at("third"), wrong);
        assert!(!refused.status.success() && !at("third").exists(), "{wrong}");
        assert!(String::from_utf8_lossy(&refused.stderr).contains("is not where a release can be"), "{refused:?}");
    }
    let release = workflow("release.yaml");
    for line in ["make plugin REPOSITORY=", "cp target/plugin/kubectl-nfs_provisioner.tar.gz out/"] {
        assert!(release.contains(line), "a release has no plugin: {line}");
    }
}
