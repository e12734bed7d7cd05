//! Fuzz targets: bytes that anybody may have chosen become patterns, paths of volumes and class parameters.
//!
//! `cargo test` runs each for a moment with random input; `cargo bolero test --test fuzz <target>` runs one under a
//! coverage-guided fuzzer. What must hold for text made of the pieces that hurt is in `properties.rs`.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs, reason = "a test that cannot go on panics")]

use std::collections::BTreeMap;

use bolero::check;
use nfs_provisioner::layout::{is_reserved, new_directory};
use nfs_provisioner::model::parameters::{Fate, Parameters};
use nfs_provisioner::values::address::ExportAddress;
use nfs_provisioner::values::path::{NAME_MAX, PATH_MAX, RelPath};
use nfs_provisioner::values::pattern::{Facts, Pattern};
use nfs_provisioner::values::text::go_bool;

/// What every path that is handed to the file system is like.
fn is_strictly_beneath(path: &RelPath) -> bool {
    let fine =
        |name: &str| !matches!(name, "" | "." | "..") && !name.contains(['/', '\0']) && name.len() <= NAME_MAX;
    path.as_str().len() <= PATH_MAX && path.as_str().split('/').all(fine)
}

#[test]
fn pattern_rendering() {
    check!().with_type::<(String, String, String, String)>().for_each(|(pattern, key, label, annotation)| {
        let labels = BTreeMap::from([(key.clone(), label.clone())]);
        let annotations = BTreeMap::from([(key.clone(), annotation.clone())]);
        let (labels, annotations) = (&labels, &annotations);
        let facts = Facts { name: "data", namespace: "shop", labels, annotations, volume: "pvc-1", class: "nfs" };
        let keyed = format!("{pattern}${{.PVC.annotations.{key}}}/${{.PVC.labels.{key}}}");
        for text in [pattern, &keyed, annotation] {
            let rendered = Pattern::parse(text).render(&facts);
            let Ok(path) = new_directory(&rendered) else { continue };
            assert!(is_strictly_beneath(&path) && !is_reserved(&path), "{rendered:?}");
            assert!(!path.as_str().starts_with("archived-"), "{rendered:?}");
            assert!(!path.as_str().chars().any(char::is_control), "{rendered:?}");
        }
    });
}

#[test]
fn path_mapping_of_hostile_volumes() {
    check!().with_type::<(String, String)>().for_each(|(base, volume)| {
        for base in ["/", "/export", "/export/", "//export/./k", &format!("/{base}")] {
            let Ok(path) = ExportAddress::path(base) else { continue };
            let export = ExportAddress::new("nas".into(), path);
            for volume in [volume.clone(), format!("/export/{volume}"), format!("{base}/{volume}")] {
                let Ok(directory) = export.relative(&volume) else { continue };
                assert!(is_strictly_beneath(&directory), "{base:?} {volume:?}");
                assert_eq!(export.relative(&export.volume_path(&directory)), Ok(directory), "{base:?} {volume:?}");
            }
        }
    });
}

#[test]
fn class_parameters() {
    check!().with_type::<(String, String, bool, bool)>().for_each(|(on_delete, archive, first, second)| {
        let pairs = [("onDelete", on_delete, first), ("archiveOnDelete", archive, second)];
        let set = pairs.into_iter().filter(|(_, _, set)| **set);
        let map: BTreeMap<String, String> = set.map(|(key, value, _)| (key.to_owned(), value.clone())).collect();
        let get = |key: &str| map.get(key).map_or("", String::as_str);
        let may_delete = match get("onDelete") {
            "delete" => true,
            "retain" | "archive" => false,
            _ => go_bool(get("archiveOnDelete")) == Some(false),
        };
        assert_eq!(Parameters::read(&map).fate == Fate::Delete, may_delete, "{map:?}");
    });
}
