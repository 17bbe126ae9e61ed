//! Stream processors: programs that turn a layer of one media type into one of another.
//!
//! A program reads the layer on its standard input and writes the result on its standard output.
//! The variable `STREAM_PROCESSOR_MEDIATYPE` names the type that it gets; what the client sends
//! along for the processor's id is on descriptor 3.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;

use base_errors::{Error, Result};

use crate::media::{self, Compression};

/// The variable with the media type of the input.
const MEDIA_TYPE_VARIABLE: &str = "STREAM_PROCESSOR_MEDIATYPE";
/// The descriptor of the payload.
const PAYLOAD_DESCRIPTOR: i32 = 3;
/// Programs in a row, at most: types that lead to each other in a circle end here.
const MAX_CHAIN: usize = 8;
/// The most of a program's standard error that is kept for the error's text.
const MAX_STDERR: u64 = 16 << 10;

/// One program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamProcessor {
    /// Its name, by which clients send payloads.
    pub id: String,
    /// Media types that it takes.
    pub accepts: Vec<String>,
    /// The media type that it gives.
    pub returns: String,
    /// The program: a path, or a name to be found in `PATH`.
    pub path: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// `NAME=value`, beside the daemon's own environment.
    pub env: Vec<String>,
}

/// The programs that are configured. Cloning is cheap.
#[derive(Clone, Debug, Default)]
pub struct Processors(Arc<Vec<StreamProcessor>>);

impl Processors {
    /// These programs; of several that take a type, the last one is used.
    #[must_use]
    pub fn new(list: Vec<StreamProcessor>) -> Self {
        Processors(Arc::new(list))
    }

    /// How a layer of `media_type` becomes a tar.
    ///
    /// # Errors
    /// NotImplemented if nothing takes the type, or what is made of it.
    pub fn plan(&self, media_type: &str) -> Result<Plan> {
        let mut steps = Vec::new();
        let mut current = media_type.to_owned();
        while steps.len() <= MAX_CHAIN {
            // A program goes before what is built in, so that it can replace it.
            let program =
                self.0.iter().rev().find(|processor| processor.accepts.contains(&current));
            if let Some(program) = program {
                current.clone_from(&program.returns);
                steps.push((program.clone(), media_type_before(&steps, media_type)));
                continue;
            }
            return match media::compression_of(&current) {
                Some(compression) => Ok(Plan { steps, compression }),
                None => Err(Error::not_implemented(format!(
                    "failed to get stream processor for {media_type}: no processor for media-type"
                ))),
            };
        }
        Err(Error::not_implemented(format!(
            "failed to get stream processor for {media_type}: processors lead to each other"
        )))
    }
}

/// The type that the next program gets.
fn media_type_before(steps: &[(StreamProcessor, String)], first: &str) -> String {
    steps.last().map_or_else(|| first.to_owned(), |(program, _)| program.returns.clone())
}

/// The way from a media type to a tar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Programs, each with the media type that it gets.
    steps: Vec<(StreamProcessor, String)>,
    /// How what comes out of the last one is compressed.
    pub compression: Compression,
}

impl Plan {
    /// The stream that comes out of the last program, or `source` itself.
    ///
    /// # Errors
    /// If a program does not start.
    pub fn start(
        &self,
        source: impl Read + Send + 'static,
        payloads: &BTreeMap<String, Vec<u8>>,
    ) -> Result<Stream> {
        if self.steps.is_empty() {
            return Ok(Stream { output: Output::Plain(Box::new(source)), running: Vec::new() });
        }
        let mut running = Vec::new();
        let mut output = Output::Plain(Box::new(source));
        for (program, media_type) in &self.steps {
            let payload = payloads.get(&program.id).map(Vec::as_slice);
            let (child, next) = start(program, media_type, output, payload)?;
            running.push(child);
            output = Output::Program(next);
        }
        Ok(Stream { output, running })
    }
}

enum Output {
    Plain(Box<dyn Read + Send>),
    Program(ChildStdout),
}

/// A running program, with the threads that serve it.
struct Running {
    id: String,
    child: Child,
    feeders: Vec<JoinHandle<()>>,
    stderr: Option<JoinHandle<String>>,
}

/// What comes out of the programs. Dropping it kills those that still run.
pub struct Stream {
    output: Output,
    running: Vec<Running>,
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.output {
            Output::Plain(source) => source.read(buffer),
            Output::Program(output) => output.read(buffer),
        }
    }
}

impl Stream {
    /// True if a program has ended without success.
    pub fn has_failed(&mut self) -> bool {
        self.running.iter_mut().any(
            |running| matches!(running.child.try_wait(), Ok(Some(status)) if !status.success()),
        )
    }

    /// Waits for the programs, whose output was read to its end.
    ///
    /// # Errors
    /// With what the program said, if one failed.
    pub fn finish(mut self) -> Result<()> {
        for mut running in std::mem::take(&mut self.running) {
            let status = running
                .child
                .wait()
                .map_err(|error| Error::unknown(format!("wait for {}: {error}", running.id)))?;
            let text = running.join();
            if !status.success() {
                let text = text.trim();
                let reason = if text.is_empty() { status.to_string() } else { text.to_owned() };
                return Err(Error::unknown(format!("stream processor {}: {reason}", running.id)));
            }
        }
        Ok(())
    }
}

impl Running {
    /// Ends the threads of a program that has ended; gives its standard error.
    fn join(&mut self) -> String {
        for feeder in self.feeders.drain(..) {
            let _ = feeder.join();
        }
        self.stderr.take().and_then(|reader| reader.join().ok()).unwrap_or_default()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        for running in &mut self.running {
            let _ = running.child.kill();
            let _ = running.child.wait();
        }
    }
}

/// Starts one program on `input`.
fn start(
    program: &StreamProcessor,
    media_type: &str,
    input: Output,
    payload: Option<&[u8]>,
) -> Result<(Running, ChildStdout)> {
    let fail = |error: io::Error| {
        Error::unknown(format!("stream processor {}: start {}: {error}", program.id, program.path))
    };
    let mut command = Command::new(&program.path);
    command.args(&program.args).env(MEDIA_TYPE_VARIABLE, media_type);
    for variable in &program.env {
        let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
        command.env(name, value);
    }
    let mut feeders = Vec::new();
    if let Some(payload) = payload {
        let (reader, writer) = io::pipe().map_err(fail)?;
        let payload = payload.to_vec();
        kernel_process::map_descriptors(
            &mut command,
            vec![(OwnedFd::from(reader), PAYLOAD_DESCRIPTOR)],
        )
        .map_err(fail)?;
        feeders.push(feed(io::Cursor::new(payload), writer)?);
    }
    let source = match input {
        Output::Program(output) => {
            command.stdin(Stdio::from(output));
            None
        }
        Output::Plain(source) => {
            command.stdin(Stdio::piped());
            Some(source)
        }
    };
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(fail)?;
    // Our ends of what the child has now, the payload's among them, close with the command.
    drop(command);
    let output = child.stdout.take();
    let stderr = child.stderr.take();
    if let (Some(source), Some(stdin)) = (source, child.stdin.take()) {
        feeders.push(feed(source, stdin)?);
    }
    let mut running = Running { id: program.id.clone(), child, feeders, stderr: None };
    running.stderr = stderr.map(|stream| {
        std::thread::spawn(move || {
            let mut kept = Vec::new();
            let mut stream = stream;
            let _ = stream.by_ref().take(MAX_STDERR).read_to_end(&mut kept);
            // The rest is read all the same, so that the program does not stand still.
            let _ = io::copy(&mut stream, &mut io::sink());
            String::from_utf8_lossy(&kept).into_owned()
        })
    });
    match output {
        Some(output) => Ok((running, output)),
        None => Err(Error::internal("a program without output")),
    }
}

/// Copies on a thread of its own. A reader that ends early is not an error: its status tells.
fn feed(
    mut source: impl Read + Send + 'static,
    mut target: impl Write + Send + 'static,
) -> Result<JoinHandle<()>> {
    std::thread::Builder::new()
        .name("processor".to_owned())
        .spawn(move || {
            let _ = io::copy(&mut source, &mut target);
        })
        .map_err(|error| Error::resource_exhausted(format!("start a thread: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENCRYPTED: &str = "application/vnd.oci.image.layer.v1.tar+gzip+encrypted";

    fn shell(id: &str, accepts: &str, returns: &str, script: &str) -> StreamProcessor {
        StreamProcessor {
            id: id.to_owned(),
            accepts: vec![accepts.to_owned()],
            returns: returns.to_owned(),
            path: "sh".to_owned(),
            args: vec!["-c".to_owned(), script.to_owned()],
            env: vec!["EXTRA=more".to_owned()],
        }
    }

    fn read(processors: &Processors, payloads: &[(&str, &[u8])]) -> (Vec<u8>, Result<()>) {
        let payloads =
            payloads.iter().map(|(id, data)| ((*id).to_owned(), data.to_vec())).collect();
        let source = io::Cursor::new(b"layer".to_vec());
        let mut stream =
            processors.plan(ENCRYPTED).expect("plan").start(source, &payloads).expect("start");
        let mut all = Vec::new();
        stream.read_to_end(&mut all).expect("read");
        (all, stream.finish())
    }

    #[test]
    fn programs_are_chained_by_media_type() {
        let processors = Processors::new(vec![
            shell("one", ENCRYPTED, "half", "tr a-z A-Z; echo $STREAM_PROCESSOR_MEDIATYPE $EXTRA"),
            shell(
                "two",
                "half",
                media::OCI_LAYER,
                "cat; cat <&3; echo $STREAM_PROCESSOR_MEDIATYPE",
            ),
        ]);
        let (all, done) = read(&processors, &[("two", b"key\n"), ("other", b"no")]);
        let expected = format!("LAYER{ENCRYPTED} more\nkey\nhalf\n");
        assert_eq!(String::from_utf8_lossy(&all), expected);
        done.expect("success");
        let plan = processors.plan(media::OCI_LAYER_GZIP).expect("built in");
        assert_eq!((plan.steps.len(), plan.compression), (0, Compression::Detect));
    }

    #[test]
    fn a_failing_program_is_told_with_its_words() {
        let script = "cat >/dev/null; echo no key >&2; exit 3";
        let processors = Processors::new(vec![shell("p", ENCRYPTED, media::OCI_LAYER, script)]);
        let (all, done) = read(&processors, &[]);
        assert!(all.is_empty());
        assert_eq!(done.expect_err("failed").to_string(), "stream processor p: no key");
        let missing = StreamProcessor {
            path: "/nowhere/program".to_owned(),
            ..shell("p", ENCRYPTED, media::OCI_LAYER, "")
        };
        let plan = Processors::new(vec![missing]).plan(ENCRYPTED).expect("plan");
        assert!(plan.start(io::empty(), &BTreeMap::new()).is_err());
    }

    #[test]
    fn types_without_an_end_are_refused() {
        let circle = Processors::new(vec![
            shell("a", ENCRYPTED, "b", "cat"),
            shell("b", "b", ENCRYPTED, "cat"),
        ]);
        for (processors, media_type) in
            [(circle, ENCRYPTED), (Processors::default(), ENCRYPTED), (Processors::default(), "")]
        {
            let error = processors.plan(media_type).expect_err("no way");
            assert_eq!(error.class(), base_errors::Class::NotImplemented);
        }
    }

    #[test]
    fn a_dropped_stream_ends_its_programs() {
        let processors =
            Processors::new(vec![shell("p", ENCRYPTED, media::OCI_LAYER, "exec sleep 1000")]);
        let stream = processors
            .plan(ENCRYPTED)
            .expect("plan")
            .start(io::Cursor::new(vec![0; 1 << 20]), &BTreeMap::new())
            .expect("start");
        let id = stream.running[0].child.id();
        drop(stream);
        assert!(!std::path::Path::new(&format!("/proc/{id}")).exists());
    }
}
