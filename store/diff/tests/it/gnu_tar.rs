//! Both ways against GNU tar.

use std::io::BufReader;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::AtomicBool;

use store_diff::media::Compression;
use store_diff::{Target, TreeOptions, apply_layer, apply_tar, write_diff};

use super::tree::{self, assert_same, is_root, read, rich};

fn create(tree: &Path, archive: &Path, options: &[&str]) {
    let output = Command::new("tar")
        .args(["--xattrs", "--xattrs-include=*", "--numeric-owner", "--sort=name"])
        .args(options)
        .arg("-cf")
        .arg(archive)
        .arg("-C")
        .arg(tree)
        .arg(".")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn extract(archive: &Path, into: &Path) {
    let output = Command::new("tar")
        .args(["--xattrs", "--xattrs-include=*", "--numeric-owner", "--same-owner", "-xpf"])
        .arg(archive)
        .arg("-C")
        .arg(into)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn apply(archive: &Path, into: &Path) {
    let source = std::fs::File::open(archive).unwrap();
    apply_layer(source, Compression::Detect, &Target::folder(into), &AtomicBool::new(false))
        .unwrap();
}

#[test]
fn posix_archives_of_gnu_tar_give_the_same_tree() {
    if !is_root() {
        return;
    }
    for sparse in ["0.0", "0.1", "1.0"] {
        let (source, applied, temp) = (tree::temp(), tree::temp(), tree::temp());
        rich(source.path());
        let archive = temp.path().join("a.tar");
        let version = format!("--sparse-version={sparse}");
        create(source.path(), &archive, &["--format=posix", "--sparse", &version]);
        apply(&archive, applied.path());
        assert_same(&read(source.path()), &read(applied.path()));
        // The hole is still one.
        let stat = rustix::fs::stat(applied.path().join("sparse")).unwrap();
        assert!(stat.st_blocks * 512 < 1 << 20, "{} blocks", stat.st_blocks);
    }
}

#[test]
fn gnu_archives_give_what_gnu_tar_makes_of_them() {
    if !is_root() {
        return;
    }
    for format in ["gnu", "oldgnu"] {
        let (source, ours, theirs, temp) = (tree::temp(), tree::temp(), tree::temp(), tree::temp());
        rich(source.path());
        let archive = temp.path().join("a.tar");
        let format = format!("--format={format}");
        // These formats have no attributes.
        let output = Command::new("tar")
            .args([&format, "--sparse", "--numeric-owner", "-cf"])
            .arg(&archive)
            .arg("-C")
            .arg(source.path())
            .arg(".")
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        apply(&archive, ours.path());
        extract(&archive, theirs.path());
        assert_same(&read(theirs.path()), &read(ours.path()));
    }
}

#[test]
fn all_compressions_give_the_same_tree_and_diff_id() {
    if !is_root() {
        return;
    }
    let (source, temp) = (tree::temp(), tree::temp());
    rich(source.path());
    let archive = temp.path().join("a.tar");
    create(source.path(), &archive, &["--format=posix"]);
    let plain = std::fs::read(&archive).unwrap();
    let gzip = |data: &[u8]| {
        use std::io::Write as _;
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    };
    let (head, tail) = plain.split_at(plain.len() / 3);
    let members = [gzip(head), gzip(tail)].concat();
    let zstd = zstd::encode_all(&plain[..], 1).unwrap();
    let mut results = Vec::new();
    for data in [&plain, &gzip(&plain), &members, &zstd] {
        let into = tree::temp();
        let target = Target::folder(into.path());
        let cancel = AtomicBool::new(false);
        let result = apply_layer(&data[..], Compression::Detect, &target, &cancel).unwrap();
        assert_eq!(result.size, plain.len() as u64);
        results.push((result, read(into.path())));
    }
    for result in &results[1..] {
        assert_eq!(result.0, results[0].0);
        assert_same(&results[0].1, &result.1);
    }
    let output = Command::new("sha256sum").arg(&archive).output().unwrap();
    let expected = String::from_utf8_lossy(&output.stdout)[..64].to_owned();
    assert_eq!(results[0].0.diff_id.hex(), expected);
}

#[test]
fn our_archives_are_read_by_gnu_tar_and_by_us() {
    if !is_root() {
        return;
    }
    let (source, ours, theirs, temp) = (tree::temp(), tree::temp(), tree::temp(), tree::temp());
    rich(source.path());
    let archive = temp.path().join("a.tar");
    let file = std::fs::File::create(&archive).unwrap();
    write_diff(file, None, source.path(), TreeOptions::default()).unwrap();
    extract(&archive, theirs.path());
    apply_tar(BufReader::new(std::fs::File::open(&archive).unwrap()), &Target::folder(ours.path()))
        .unwrap();
    let mut expected = read(source.path());
    for node in expected.values_mut() {
        node.mtime.1 = 0;
    }
    assert_same(&expected, &read(theirs.path()));
    assert_same(&expected, &read(ours.path()));
    // And by the tar crate, name by name.
    let mut names = std::collections::BTreeSet::new();
    let mut reader = tar::Archive::new(std::fs::File::open(&archive).unwrap());
    for entry in reader.entries().unwrap() {
        names.insert(entry.unwrap().path().unwrap().into_owned());
    }
    assert_eq!(names, expected.into_keys().collect());
}

#[test]
fn four_gibibytes_of_hole_take_no_room() {
    if !is_root() {
        return;
    }
    use std::os::unix::fs::FileExt as _;
    let (source, applied, temp) = (tree::temp(), tree::temp(), tree::temp());
    let file = std::fs::File::create(source.path().join("disk.img")).unwrap();
    file.set_len((4 << 30) + 4096).unwrap();
    file.write_all_at(&[9; 10_000], 3 << 30).unwrap();
    file.write_all_at(&[8; 10], 4 << 30).unwrap();
    drop(file);
    for format in ["--format=posix", "--format=gnu"] {
        let archive = temp.path().join("a.tar");
        create_plain(source.path(), &archive, format);
        assert!(std::fs::metadata(&archive).unwrap().len() < 1 << 20);
        apply(&archive, applied.path());
        let (one, other) = (read(source.path()), read(applied.path()));
        let name = Path::new("disk.img");
        assert_eq!(one[name].size, other[name].size);
        assert_eq!(one[name].content, other[name].content);
        let stat = rustix::fs::stat(applied.path().join(name)).unwrap();
        assert!(stat.st_blocks * 512 < 1 << 20);
    }
}

fn create_plain(tree: &Path, archive: &Path, format: &str) {
    let output = Command::new("tar")
        .args([format, "--sparse", "-cf"])
        .arg(archive)
        .arg("-C")
        .arg(tree)
        .arg(".")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
