//! A service to probe with, and frames by hand.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use api_ttrpc::{
    BoxFuture, Bytes, Context, MethodKind, ServerStream, Service, Status, decode_request,
};
use prost::Message;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::{Barrier, Semaphore};

pub(crate) const NAME: &str = "probe.v1.Probe";

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Text {
    #[prost(string, tag = "1")]
    pub(crate) text: String,
}

impl Text {
    pub(crate) fn new(text: &str) -> Self {
        Text { text: text.to_owned() }
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct Request {
    #[prost(string, tag = "1")]
    service: String,
    #[prost(string, tag = "2")]
    method: String,
    #[prost(bytes = "vec", tag = "3")]
    payload: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Response {
    #[prost(message, optional, tag = "1")]
    status: Option<Status>,
}

/// What the handlers tell the test, and wait for.
#[derive(Debug)]
pub(crate) struct Probe {
    /// One permit per handler that has begun to wait.
    pub(crate) entered: Arc<Semaphore>,
    /// One permit per handler that saw its caller leave.
    pub(crate) cancelled: Arc<Semaphore>,
    /// A waiting handler takes one permit to go on.
    pub(crate) gate: Arc<Semaphore>,
    pub(crate) finished: Arc<AtomicUsize>,
    meeting: Mutex<Option<Arc<Barrier>>>,
}

impl Default for Probe {
    fn default() -> Self {
        Probe {
            entered: Arc::new(Semaphore::new(0)),
            cancelled: Arc::new(Semaphore::new(0)),
            gate: Arc::new(Semaphore::new(0)),
            finished: Arc::default(),
            meeting: Mutex::default(),
        }
    }
}

impl Service for Probe {
    fn kind(&self, method: &str) -> Option<MethodKind> {
        match method {
            "Echo" | "Context" | "Fail" | "Panic" | "Meet" | "Wait" | "Work" | "Large" => {
                Some(MethodKind::Unary)
            }
            "Join" => Some(MethodKind::ClientStream),
            "Split" => Some(MethodKind::ServerStream),
            "Each" => Some(MethodKind::BidiStream),
            _ => None,
        }
    }

    fn call(
        &self,
        context: Context,
        method: &str,
        payload: Bytes,
    ) -> BoxFuture<'static, Result<Vec<u8>, Status>> {
        let text = match decode_request::<Text>(payload) {
            Ok(request) => request.text,
            Err(status) => return Box::pin(std::future::ready(Err(status))),
        };
        let meeting = (method == "Meet").then(|| {
            let size = text.parse().unwrap();
            let mut meeting = self.meeting.lock().unwrap();
            Arc::clone(meeting.get_or_insert_with(|| Arc::new(Barrier::new(size))))
        });
        let (entered, cancelled, gate, finished) = (
            Arc::clone(&self.entered),
            Arc::clone(&self.cancelled),
            Arc::clone(&self.gate),
            Arc::clone(&self.finished),
        );
        let method = method.to_owned();
        Box::pin(async move {
            let text = match method.as_str() {
                "Context" => format!(
                    "namespace={} a={} deadline={} peer={:?}",
                    context.namespace().unwrap_or("-"),
                    context.metadata_values("A").collect::<Vec<_>>().join(","),
                    context.deadline().is_some(),
                    context.peer(),
                ),
                "Fail" => return Err(base_errors::Error::not_found(text).into()),
                "Panic" => panic!("as asked"),
                "Meet" => {
                    meeting.unwrap().wait().await;
                    text
                }
                "Wait" => {
                    entered.add_permits(1);
                    tokio::select! {
                        permit = gate.acquire() => permit.unwrap().forget(),
                        () = context.cancelled() => {
                            assert!(context.is_cancelled());
                            cancelled.add_permits(1);
                        }
                    }
                    text
                }
                "Work" => {
                    entered.add_permits(1);
                    context.cancelled().await;
                    cancelled.add_permits(1);
                    gate.acquire().await.unwrap().forget();
                    finished.fetch_add(1, Ordering::SeqCst);
                    text
                }
                "Large" => "x".repeat(text.parse().unwrap()),
                _ => text,
            };
            Ok(Text { text }.encode_to_vec())
        })
    }

    fn stream(
        &self,
        _context: Context,
        method: &str,
        mut stream: ServerStream,
    ) -> BoxFuture<'static, Result<Vec<u8>, Status>> {
        let method = method.to_owned();
        Box::pin(async move {
            let mut all = Text::default();
            while let Some(message) = stream.receive::<Text>().await? {
                match method.as_str() {
                    "Split" => {
                        for letter in message.text.chars() {
                            stream.send(&Text::new(&letter.to_string())).await?;
                        }
                    }
                    "Each" if message.text == "fail" => {
                        return Err(base_errors::Error::not_found("fail").into());
                    }
                    "Each" => stream.send(&message).await?,
                    _ => all.text.push_str(&message.text),
                }
            }
            Ok(all.encode_to_vec())
        })
    }
}

/// A frame by hand.
pub(crate) fn frame(stream_id: u32, kind: u8, flags: u8, body: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(body.len()).unwrap().to_be_bytes().to_vec();
    frame.extend(stream_id.to_be_bytes());
    frame.extend([kind, flags]);
    frame.extend(body);
    frame
}

/// The body of a request to the probe.
pub(crate) fn request(method: &str, text: &str) -> Vec<u8> {
    Request {
        service: NAME.to_owned(),
        method: method.to_owned(),
        payload: Text::new(text).encode_to_vec(),
    }
    .encode_to_vec()
}

/// Stream id, type, flags and body of the next frame.
pub(crate) async fn read_frame(io: &mut (impl AsyncRead + Unpin)) -> (u32, u8, u8, Vec<u8>) {
    let length = io.read_u32().await.unwrap();
    let stream_id = io.read_u32().await.unwrap();
    let kind = io.read_u8().await.unwrap();
    let flags = io.read_u8().await.unwrap();
    let mut body = vec![0; usize::try_from(length).unwrap()];
    io.read_exact(&mut body).await.unwrap();
    (stream_id, kind, flags, body)
}

/// The status in the body of a response; the empty one for success.
pub(crate) fn status(body: &[u8]) -> Status {
    Response::decode(body).unwrap().status.unwrap_or_default()
}
