//! Streams with real fifos and pipes.

use std::io::{Read, Write};
use std::path::PathBuf;

use runtime_runc::Reaper;
use rustix::event::PollFlags;

use super::*;

/// A folder with fifos.
struct Fixture {
    folder: tempfile::TempDir,
    reaper: Reaper,
    /// The tests of this process each have a reaper, and each would collect the others' children.
    _alone: std::sync::MutexGuard<'static, ()>,
}

static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());

impl Fixture {
    fn new() -> Self {
        let alone = crate::lock(&ALONE);
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        Fixture { folder, reaper: Reaper::install().unwrap(), _alone: alone }
    }

    fn fifo(&self, name: &str) -> String {
        let path = self.folder.path().join(name);
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    async fn begin(&self, endpoints: &Endpoints) -> (Ends, ProcessIo) {
        let owner = Owner { id: "c", namespace: "n", uid: 0, gid: 0, reaper: &self.reaper };
        let (io, prepared) = prepare(endpoints, &owner).await.unwrap();
        let running = prepared.begin(endpoints, &owner).await.unwrap();
        let Io::Streams { stdin, stdout, stderr } = io else { panic!("no terminal was asked for") };
        let file = |fd: Option<OwnedFd>| fd.map(File::from);
        (Ends { stdin: file(stdin), stdout: file(stdout), stderr: file(stderr) }, running)
    }
}

/// What the process holds.
struct Ends {
    stdin: Option<File>,
    stdout: Option<File>,
    stderr: Option<File>,
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|index| u8::try_from(index * 7 % 251).unwrap()).collect()
}

fn runtime() -> tokio::runtime::Runtime {
    crate::serve::runtime().unwrap()
}

#[test]
fn much_output_and_then_the_end_loses_no_byte() {
    runtime().block_on(async {
        let fixture = Fixture::new();
        let stdout = fixture.fifo("out");
        let endpoints = Endpoints { stdout: stdout.clone(), ..Endpoints::default() };
        let (ends, running) = fixture.begin(&endpoints).await;
        assert!(ends.stderr.is_none() && ends.stdin.is_none());
        let bytes = pattern(16 << 20);
        let expected = bytes.clone();
        let writer = std::thread::spawn(move || ends.stdout.unwrap().write_all(&bytes).unwrap());
        let (sender, received) = tokio::sync::oneshot::channel();
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            File::open(stdout).unwrap().read_to_end(&mut all).unwrap();
            sender.send(all).unwrap();
        });
        let all = received.await.unwrap();
        assert!(all == expected, "{} of {} bytes", all.len(), expected.len());
        drain(&running.activity()).await;
        running.close(&Remainders::default()).await;
        writer.join().unwrap();
        reader.join().unwrap();
    });
}

#[test]
fn a_reader_that_comes_after_the_end_still_reads() {
    runtime().block_on(async {
        let fixture = Fixture::new();
        let stdout = fixture.fifo("out");
        let endpoints = Endpoints { stdout: stdout.clone(), ..Endpoints::default() };
        let (ends, running) = fixture.begin(&endpoints).await;
        ends.stdout.unwrap().write_all(b"last words").unwrap();
        // The stream counts as drained: nobody waits for a reader that may never come.
        drain(&running.activity()).await;
        let reader = tokio::net::unix::pipe::OpenOptions::new().open_receiver(stdout).unwrap();
        let mut all = Vec::new();
        let mut buffer = [0; 64];
        loop {
            reader.readable().await.unwrap();
            match reader.try_read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => all.extend_from_slice(&buffer[..count]),
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
        }
        assert_eq!(all, b"last words");
        running.close(&Remainders::default()).await;
    });
}

#[test]
fn a_reader_that_comes_after_the_deletion_sees_the_end() {
    runtime().block_on(async {
        let fixture = Fixture::new();
        for words in ["", "last words"] {
            let stdout = fixture.fifo(&format!("out{}", words.len()));
            let endpoints = Endpoints { stdout: stdout.clone(), ..Endpoints::default() };
            let (ends, running) = fixture.begin(&endpoints).await;
            ends.stdout.unwrap().write_all(words.as_bytes()).unwrap();
            drain(&running.activity()).await;
            let remainders = Remainders::default();
            running.close(&remainders).await;
            // It blocks until the other end is there, as clients open fifos.
            let reader = tokio::task::spawn_blocking(move || std::fs::read(stdout));
            assert_eq!(reader.await.unwrap().unwrap(), words.as_bytes());
            remainders.wait().await;
        }
    });
}

#[test]
fn a_stalled_reader_stops_its_own_stream_alone() {
    runtime().block_on(async {
        let fixture = Fixture::new();
        let (stdout, stderr) = (fixture.fifo("out"), fixture.fifo("err"));
        let endpoints =
            Endpoints { stdout: stdout.clone(), stderr: stderr.clone(), ..Endpoints::default() };
        let (ends, running) = fixture.begin(&endpoints).await;
        // Nobody reads standard output: it takes what pipe and fifo hold, and then no more.
        let mut full = ends.stdout.unwrap();
        rustix::io::ioctl_fionbio(&full, true).unwrap();
        let mut taken = 0;
        loop {
            match full.write(&[7; 4096]) {
                Ok(count) => taken += count,
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    if fifo::ready(&full, PollFlags::OUT).is_empty() {
                        break;
                    }
                }
            }
            tokio::task::yield_now().await;
        }
        assert!(taken >= 64 << 10);
        // The other stream flows.
        let (sender, received) = tokio::sync::oneshot::channel();
        let reader = std::thread::spawn(move || {
            let mut all = String::new();
            File::open(stderr).unwrap().read_to_string(&mut all).unwrap();
            sender.send(all).unwrap();
        });
        ends.stderr.unwrap().write_all(b"alive").unwrap();
        assert_eq!(received.await.unwrap(), "alive");
        reader.join().unwrap();
        // The reader comes, and nothing was lost.
        drop(full);
        let (sender, received) = tokio::sync::oneshot::channel();
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            File::open(stdout).unwrap().read_to_end(&mut all).unwrap();
            sender.send(all.len()).unwrap();
        });
        assert_eq!(received.await.unwrap(), taken);
        reader.join().unwrap();
        running.close(&Remainders::default()).await;
    });
}

#[test]
fn input_ends_when_both_the_client_and_the_shim_have_closed_it() {
    runtime().block_on(async {
        let fixture = Fixture::new();
        let stdin = fixture.fifo("in");
        let endpoints = Endpoints { stdin: stdin.clone(), ..Endpoints::default() };
        // Nobody has opened the fifo: nothing waits for that.
        let (ends, mut running) = fixture.begin(&endpoints).await;
        let process = ends.stdin.unwrap();
        let source = copy::source(process.into());
        let process = source.unwrap();
        rustix::io::ioctl_fionbio(process.get_ref(), true).unwrap();
        let read = async |expected: &[u8]| {
            let mut buffer = [0; 16];
            loop {
                let mut ready = process.readable().await.unwrap();
                match ready.try_io(|fd| Ok(rustix::io::read(fd.get_ref(), &mut buffer)?)) {
                    Ok(count) => break assert_eq!(&buffer[..count.unwrap()], expected),
                    Err(_would_block) => {}
                }
            }
        };
        for text in ["one", "two"] {
            // A client comes, writes and leaves; its leaving is not the end.
            std::fs::OpenOptions::new()
                .write(true)
                .open(&stdin)
                .unwrap()
                .write_all(text.as_bytes())
                .unwrap();
            read(text.as_bytes()).await;
        }
        running.close_stdin();
        read(b"").await;
        running.close(&Remainders::default()).await;
    });
}

#[test]
fn a_file_gets_both_streams_and_keeps_what_it_has() {
    runtime().block_on(async {
        let fixture = Fixture::new();
        let path = fixture.path("folder/log");
        std::fs::create_dir(path.parent().unwrap()).unwrap();
        std::fs::write(&path, "before\n").unwrap();
        let stdout = format!("file://{}", path.display());
        let endpoints = Endpoints { stderr: stdout.clone(), stdout, ..Endpoints::default() };
        let (ends, running) = fixture.begin(&endpoints).await;
        ends.stdout.unwrap().write_all(b"out\n").unwrap();
        drop(ends.stderr);
        drain(&running.activity()).await;
        running.close(&Remainders::default()).await;
        assert_eq!(std::fs::read_to_string(path).unwrap(), "before\nout\n");
    });
}

#[test]
fn a_logger_reads_both_streams_to_their_end() {
    runtime().block_on(async {
        let fixture = Fixture::new();
        let script = fixture.path("logger");
        let log = fixture.path("log");
        std::fs::write(
            &script,
            "#!/bin/sh\nexec 5>&-\n{ echo $CONTAINER_ID $CONTAINER_NAMESPACE $1 $2; cat <&3; cat <&4; } \
             > \"$2\"\n",
        )
        .unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&script, mode).unwrap();
        let stdout = format!("binary://{}?path={}", script.display(), log.display());
        let endpoints = Endpoints { stdout, ..Endpoints::default() };
        let (ends, running) = fixture.begin(&endpoints).await;
        ends.stdout.unwrap().write_all(b"out\n").unwrap();
        ends.stderr.unwrap().write_all(b"err\n").unwrap();
        running.close(&Remainders::default()).await;
        let expected = format!("c n path {}\nout\nerr\n", log.display());
        assert_eq!(std::fs::read_to_string(log).unwrap(), expected);
    });
}

#[test]
fn what_cannot_be_opened_is_named() {
    runtime().block_on(async {
        let fixture = Fixture::new();
        let owner = Owner { id: "c", namespace: "n", uid: 0, gid: 0, reaper: &fixture.reaper };
        let missing = fixture.path("missing").to_str().unwrap().to_owned();
        for (endpoints, text) in [
            (
                Endpoints { stdin: missing.clone(), ..Default::default() },
                "failed to open stdin fifo",
            ),
            (Endpoints { stdout: missing.clone(), ..Default::default() }, "opening file"),
            (
                Endpoints { stdout: "http://x/y".to_owned(), ..Default::default() },
                "unknown STDIO scheme http",
            ),
            (
                Endpoints { stdout: format!("binary://{missing}"), ..Default::default() },
                "failed to start binary process",
            ),
        ] {
            let error = prepare(&endpoints, &owner).await.unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        }
    });
}
