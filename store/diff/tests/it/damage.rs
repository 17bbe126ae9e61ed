//! Streams that are cut or damaged end in an error, never in a hang or a panic.

use std::io::Write as _;
use std::sync::atomic::AtomicBool;

use base_errors::{Class, Coded as _};
use proptest::prelude::*;
use store_diff::media::Compression;
use store_diff::{ApplyError, ApplyResult, Target, apply_layer};

use super::archive::Archive;
use super::tree;

fn sample() -> Vec<u8> {
    let long = "l".repeat(120);
    Archive::default()
        .folder("d/")
        .file("d/file", &"text ".repeat(500))
        .with(|entry| entry.xattrs.push((b"user.k".to_vec(), b"v".to_vec())))
        .symlink("d/link", "file")
        .hard_link("d/again", "d/file")
        .file(&format!("d/{long}/{long}"), "deep")
        .file("d/.wh.x", "")
        .file("d/.wh..wh..opq", "")
        .bytes()
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn apply(data: &[u8]) -> Result<ApplyResult, ApplyError> {
    let temp = tree::temp();
    let root = temp.path().join("root");
    std::fs::create_dir(&root).unwrap();
    let cancel = AtomicBool::new(false);
    let outcome = apply_layer(data, Compression::Detect, &Target::folder(&root), &cancel);
    assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 1);
    outcome
}

#[test]
fn a_cut_stream_is_data_loss() {
    let plain = sample();
    let packed = gzip(&plain);
    for length in [1, 9, 20, packed.len() / 2, packed.len() - 9, packed.len() - 1] {
        let error = apply(&packed[..length]).unwrap_err();
        // A head that is too short to be gzip is read as tar.
        assert_eq!(error.class(), Class::DataLoss, "{length}: {error}");
    }
    // Within a header, and within data.
    for length in [100, 512 + 700, 512 * 4] {
        let error = apply(&plain[..length]).unwrap_err();
        assert_eq!(error.class(), Class::DataLoss, "{length}: {error}");
    }
    // Between entries the end may be missing, as other readers have it.
    apply(&plain[..512]).unwrap();
    assert_eq!(apply(b"").unwrap().size, 0);
}

#[test]
fn a_damaged_stream_is_told() {
    let mut packed = gzip(&sample());
    let middle = packed.len() / 2;
    for byte in &mut packed[middle..middle + 8] {
        *byte ^= 0x55;
    }
    let error = apply(&packed).unwrap_err();
    assert!(matches!(error.class(), Class::DataLoss | Class::InvalidArgument), "{error}");
    // A wrong sum at the end is damage too.
    let mut packed = gzip(&sample());
    let sum = packed.len() - 6;
    packed[sum] ^= 1;
    assert_eq!(apply(&packed).unwrap_err().class(), Class::DataLoss);
    // What follows the stream is not part of any format.
    let mut packed = gzip(&sample());
    packed.extend_from_slice(b"garbage behind the last member");
    apply(&packed).unwrap_err();
}

#[test]
fn what_is_no_archive_is_refused() {
    for data in [&[b'x'; 2000][..], &[0xff; 600], b"PK\x03\x04 not a tar at all"] {
        apply(data).unwrap_err();
    }
    // Huge claims of special entries are bounded before memory is taken.
    let archive = Archive::default().entry(b'x', "pax", "", &vec![b'0'; 2 << 20]).bytes();
    assert_eq!(apply(&archive).unwrap_err().to_string(), "archive/tar: header field too long");
    let archive = Archive::default().entry(b'L', "long", "", &vec![b'n'; 2 << 20]).bytes();
    assert_eq!(apply(&archive).unwrap_err().class(), Class::InvalidArgument);
}

#[test]
fn a_cancelled_layer_ends() {
    let data = gzip(&sample());
    let temp = tree::temp();
    let cancel = AtomicBool::new(true);
    let target = Target::folder(temp.path());
    let error = apply_layer(&data[..], Compression::Detect, &target, &cancel).unwrap_err();
    assert!(matches!(error, ApplyError::Cancelled));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Any bytes flipped anywhere: the call returns, and nothing appears beside the root.
    #[test]
    fn flipped_bytes_never_hang_or_escape(
        flips in prop::collection::vec((0_usize..4096, 1_u8..), 1..6),
        fix in any::<bool>(),
        packed in any::<bool>(),
    ) {
        let mut data = sample();
        for (place, flip) in flips {
            let place = place % data.len();
            data[place] ^= flip;
        }
        if fix {
            // Right checksums, so that damaged fields are reached.
            for block in data.chunks_exact_mut(512) {
                if &block[257..262] == b"ustar" {
                    block[148..156].fill(b' ');
                    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
                    let text = format!("{sum:06o}\0 ");
                    block[148..156].copy_from_slice(text.as_bytes());
                }
            }
        }
        let _ = apply(&if packed { gzip(&data) } else { data });
    }

    #[test]
    fn cut_streams_never_hang(length in 0_usize..8192, packed in any::<bool>()) {
        let data = if packed { gzip(&sample()) } else { sample() };
        let _ = apply(&data[..length % data.len()]);
    }
}
