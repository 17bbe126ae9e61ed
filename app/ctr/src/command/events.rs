//! `events`.

use api_grpc::events::SubscribeRequest;

use super::body;
use crate::connection::Connection;
use crate::{Outcome, format, log, say};

/// Prints what happens, until it is stopped.
#[derive(Debug, clap::Args)]
pub(crate) struct Events {
    /// Filters
    filters: Vec<String>,
}

impl Events {
    pub(crate) async fn run(self, connection: &Connection) -> Outcome {
        let client = connection.connect().await?;
        let request = SubscribeRequest { filters: self.filters };
        let mut events = body(client.events().subscribe(request).await)?;
        while let Some(envelope) = events.message().await.map_err(api_grpc::status::from_status)? {
            let time = format::go_time(envelope.timestamp.as_ref());
            let json = match &envelope.event {
                None => String::new(),
                Some(event) => format::any_json(event).unwrap_or_else(|| {
                    log::warn(format!("cannot show an event of type {}", event.type_url));
                    String::new()
                }),
            };
            say!("{time} {} {} {json}", envelope.namespace, envelope.topic);
        }
        Ok(0)
    }
}
