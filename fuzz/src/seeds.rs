//! Valid inputs of all kinds, to begin with.
#![expect(clippy::unwrap_used, reason = "what is written here cannot fail but by a fault of ours")]

use std::io::Write as _;

use api_shim::Message as _;

fn header(path: &str, kind: tar::EntryType, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_path(path).unwrap();
    header.set_entry_type(kind);
    header.set_mode(0o4755);
    header.set_uid(1000);
    header.set_size(size);
    header
}

/// Archives with what layers have: files, links, whiteouts, long names, PAX headers.
pub(crate) fn tar() -> Vec<Vec<u8>> {
    let mut plain = tar::Builder::new(Vec::new());
    for path in ["usr/", "usr/bin/", "etc/"] {
        let mut entry = header(path, tar::EntryType::Directory, 0);
        entry.set_cksum();
        plain.append(&entry, &[][..]).unwrap();
    }
    for path in ["usr/bin/program", "etc/.wh.passwd", "usr/.wh..wh..opq", "etc/hosts"] {
        let mut entry = header(path, tar::EntryType::Regular, 600);
        entry.set_cksum();
        plain.append(&entry, &[7; 600][..]).unwrap();
    }
    for (path, target, kind) in [
        ("bin", "usr/bin", tar::EntryType::Symlink),
        ("usr/bin/other", "usr/bin/program", tar::EntryType::Link),
        ("etc/up", "../../../etc", tar::EntryType::Symlink),
    ] {
        let mut entry = header(path, kind, 0);
        entry.set_link_name(target).unwrap();
        entry.set_cksum();
        plain.append(&entry, &[][..]).unwrap();
    }
    let plain = plain.into_inner().unwrap();

    let mut long = tar::Builder::new(Vec::new());
    let name = "a-long-name/".repeat(20) + "file";
    let mut entry = tar::Header::new_gnu();
    entry.set_entry_type(tar::EntryType::Regular);
    entry.set_size(3);
    long.append_data(&mut entry, &name, &b"abc"[..]).unwrap();
    let records = [
        ("SCHILY.xattr.user.key", &b"value"[..]),
        ("mtime", b"1234567890.123456789"),
        ("path", b"renamed"),
        ("size", b"3"),
        ("GNU.sparse.major", b"1"),
    ];
    long.append_pax_extensions(records).unwrap();
    let mut entry = header("x", tar::EntryType::Regular, 3);
    entry.set_cksum();
    long.append(&entry, &b"abc"[..]).unwrap();
    vec![plain, long.into_inner().unwrap()]
}

/// The archives, and some text, compressed.
pub(crate) fn gzip() -> Vec<Vec<u8>> {
    let pack = |data: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    };
    let mut packed: Vec<Vec<u8>> = tar().iter().map(|archive| pack(archive)).collect();
    // Two members, as parallel compressors write them.
    packed.push([pack(b"one"), pack(b"two")].concat());
    packed
}

/// As [`gzip`].
pub(crate) fn zstd() -> Vec<Vec<u8>> {
    let pack = |data: &[u8]| zstd::encode_all(data, 3).unwrap();
    let mut packed: Vec<Vec<u8>> = tar().iter().map(|archive| pack(archive)).collect();
    packed.push([pack(b"one"), pack(b"two")].concat());
    packed
}

/// A database with and one without a list of free pages.
pub(crate) fn bolt() -> Vec<Vec<u8>> {
    let folder = crate::targets::folder();
    [true, false]
        .into_iter()
        .map(|store_freelist| {
            let path = folder.path().join(store_freelist.to_string());
            let options = store_bolt::Options { store_freelist, ..store_bolt::Options::default() };
            let db = store_bolt::Db::open(&path, options).unwrap();
            for round in 0..3_u8 {
                db.update(move |tx| -> Result<(), store_bolt::Error> {
                    for number in 0..60_u8 {
                        let names: [&[u8]; 3] = [b"v1", &[b'n', round], &[b'k', number]];
                        let mut bucket = tx.create_bucket_if_missing(&names)?;
                        bucket.put(b"key", &vec![number; usize::from(number) * 2])?;
                    }
                    tx.create_bucket_if_missing(&[b"v1"])?.put(b"large", &[round; 9000])?;
                    Ok(())
                })
                .unwrap();
            }
            drop(db);
            std::fs::read(path).unwrap()
        })
        .collect()
}

fn texts(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// Filters of every form.
pub(crate) fn filter() -> Vec<Vec<u8>> {
    texts(&[
        "",
        "name==a",
        "name!=a,labels.b",
        "labels.\"a.b/c\"==\"x\\x61\\u00e4\\101\"",
        "name~=/^a[b-z]*(c|d){2,3}$/",
        "name~=|x\\|y|",
        "event.container_id==x,topic~=^/tasks/",
    ])
}

/// Names of images, digests, platforms, times.
pub(crate) fn references() -> Vec<Vec<u8>> {
    texts(&[
        "alpine",
        "docker.io/library/alpine:3.20",
        "localhost:5000/a/b__c/d-e@sha256:0123456789012345678901234567890123456789012345678901234567890123",
        "linux/arm64/v8",
        "windows(10.0.17763)/amd64",
        "2006-01-02T15:04:05.999999999Z",
        "labels.a.b",
        "sha512:00",
    ])
}

/// Manifests, indexes and configurations.
pub(crate) fn documents() -> Vec<Vec<u8>> {
    texts(&[
        r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:0123456789012345678901234567890123456789012345678901234567890123","size":7,"platform":{"architecture":"arm64","os":"linux","variant":"v8"},"annotations":{"a":"b"}}]}"#,
        r#"{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:0123456789012345678901234567890123456789012345678901234567890123","size":7},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"sha256:0123456789012345678901234567890123456789012345678901234567890123","size":1e3}]}"#,
        r#"{"architecture":"amd64","os":"linux","config":{"Env":["A=b"],"Cmd":null},"rootfs":{"type":"layers","diff_ids":["sha256:0123456789012345678901234567890123456789012345678901234567890123"]},"history":[{"empty_layer":true}]}"#,
        r#"[{"Config":"x.json","RepoTags":["a:b"],"Layers":["a/layer.tar"]}]"#,
    ])
}

/// Messages as they travel, packed.
pub(crate) fn any() -> Vec<Vec<u8>> {
    use api_shim::{events, runc, types, typeurl};
    let exit = events::TaskExit {
        container_id: "c".to_owned(),
        id: "c".to_owned(),
        pid: 7,
        exit_status: 137,
        ..events::TaskExit::default()
    };
    let create = events::TaskCreate {
        container_id: "c".to_owned(),
        bundle: "/b".to_owned(),
        rootfs: vec![types::Mount { r#type: "overlay".to_owned(), ..types::Mount::default() }],
        ..events::TaskCreate::default()
    };
    let options = runc::Options { binary_name: "runc".to_owned(), ..runc::Options::default() };
    let packed = [typeurl::encode(&exit), typeurl::encode(&create), typeurl::encode(&options)];
    packed.iter().map(|any| any.encode_to_vec()).collect()
}
