//! `tasks exec`.

use base_errors::{Error, Result};
use runtime_spec::User;
use serde_json::{Value, json};

use crate::Outcome;
use crate::command::containers::need_id;
use crate::connection::Connection;
use crate::streams::{Attendance, StreamFlags, attend};

/// Runs one more process in a container.
#[derive(Debug, clap::Args)]
pub(crate) struct Exec {
    /// Working directory of the new process
    #[arg(long, value_name = "value")]
    cwd: Option<String>,
    /// Allocate a TTY for the container
    #[arg(long, short)]
    tty: bool,
    /// Detach from the task after it has started execution
    #[arg(long, short)]
    detach: bool,
    /// Exec specific id for the process
    #[arg(long, value_name = "value", default_value = "", hide_default_value = true)]
    exec_id: String,
    #[command(flatten)]
    streams: StreamFlags,
    /// User id or name
    #[arg(long, value_name = "value")]
    user: Option<String>,
    /// Container, command and arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<String>,
}

impl Exec {
    pub(crate) async fn run(self, connection: &Connection) -> Outcome {
        let id = need_id(self.words.first().map(String::as_str))?;
        let client = connection.connect().await?;
        let container = client.container(id).await?;
        let task = client.load_process(id, "").await.map_err(super::no_task)?;
        let spec = container.spec.as_ref().map(|spec| spec.value.as_slice()).unwrap_or_default();
        let user = match &self.user {
            None => None,
            Some(user) => {
                let look = |rootfs: Option<&std::path::Path>| Ok(User::resolve(user, rootfs)?);
                Some(client.with_rootfs(&container, look).await?)
            }
        };
        let process = self.process(spec, user)?;
        let connected = self.streams.connect(self.tty, false)?;
        let process = task.exec(&self.exec_id, process, connected.stdio).await?;
        let attendance = Attendance { detach: self.detach, ..Attendance::default() };
        attend(process, connected.terminal, attendance).await
    }

    /// The container's process with our changes, as JSON.
    fn process(&self, spec: &[u8], user: Option<User>) -> Result<Vec<u8>> {
        let broken = |error: serde_json::Error| Error::invalid_argument(format!("spec: {error}"));
        let mut spec: Value = serde_json::from_slice(spec).map_err(broken)?;
        let mut process = spec["process"].take();
        let Some(fields) = process.as_object_mut() else {
            return Err(Error::invalid_argument("spec: no process"));
        };
        fields.insert("terminal".to_owned(), json!(self.tty));
        fields.insert("args".to_owned(), json!(self.words.get(1..).unwrap_or_default()));
        if let Some(cwd) = &self.cwd {
            fields.insert("cwd".to_owned(), json!(cwd));
        }
        if let Some(User { uid, gid, groups }) = user {
            let user = json!({"uid": uid, "gid": gid, "additionalGids": groups});
            fields.insert("user".to_owned(), user);
        }
        serde_json::to_vec(&process).map_err(broken)
    }
}
