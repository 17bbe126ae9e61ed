//! `tasks metrics`.

use api_shim::cgroups::{v1, v2};
use api_shim::{Any, typeurl};

use super::running;
use crate::command::plain;
use crate::connection::Connection;
use crate::format::{self, TabWriter};
use crate::{Outcome, say};

pub(super) async fn run(connection: &Connection, layout: &str, id: Option<String>) -> Outcome {
    let (client, id) = running(connection, id.as_deref()).await?;
    let metric = client.metrics(&id).await?;
    let data = metric.data.unwrap_or_default();
    match layout {
        "json" => {
            let json = format::any_json(&data)
                .ok_or_else(|| plain(format!("cannot show metrics of type {}", data.type_url)))?;
            say!("{}", format::indented(&json, "  "));
        }
        "table" => {
            let mut table = TabWriter::new(1, 8, 4, ' ');
            table.line("ID\tTIMESTAMP\t");
            let time = format::go_time(metric.timestamp.as_ref());
            table.line(&format!("{}\t{time}\t\n", metric.id));
            table.line("METRIC\tVALUE\t");
            for (name, value) in rows(&data)? {
                table.line(&format!("{name}\t{value}\t"));
            }
            table.print()?;
        }
        _ => return Err(plain("format must be table or json")),
    }
    Ok(0)
}

fn rows(data: &Any) -> base_errors::Result<Vec<(&'static str, String)>> {
    let mut rows = Vec::new();
    let mut row = |name, value: u64| rows.push((name, value.to_string()));
    if typeurl::is::<v1::Metrics>(data) {
        let metrics: v1::Metrics = typeurl::decode(data)?;
        if let Some(memory) = &metrics.memory {
            let usage = memory.usage.unwrap_or_default();
            row("memory.usage_in_bytes", usage.usage);
            row("memory.limit_in_bytes", usage.limit);
            row("memory.stat.cache", memory.total_cache);
        }
        if let Some(cpu) = &metrics.cpu {
            let usage = cpu.usage.clone().unwrap_or_default();
            row("cpuacct.usage", usage.total);
            let each: Vec<_> = usage.per_cpu.iter().map(u64::to_string).collect();
            rows.push(("cpuacct.usage_percpu", format!("[{}]", each.join(" "))));
        }
        let mut row = |name, value: u64| rows.push((name, value.to_string()));
        if let Some(pids) = &metrics.pids {
            row("pids.current", pids.current);
            row("pids.limit", pids.limit);
        }
    } else if typeurl::is::<v2::Metrics>(data) {
        let metrics: v2::Metrics = typeurl::decode(data)?;
        if let Some(pids) = &metrics.pids {
            row("pids.current", pids.current);
            row("pids.limit", pids.limit);
        }
        if let Some(cpu) = &metrics.cpu {
            row("cpu.usage_usec", cpu.usage_usec);
            row("cpu.user_usec", cpu.user_usec);
            row("cpu.system_usec", cpu.system_usec);
            row("cpu.nr_periods", cpu.nr_periods);
            row("cpu.nr_throttled", cpu.nr_throttled);
            row("cpu.throttled_usec", cpu.throttled_usec);
        }
        if let Some(memory) = &metrics.memory {
            row("memory.usage", memory.usage);
            row("memory.usage_limit", memory.usage_limit);
            row("memory.swap_usage", memory.swap_usage);
            row("memory.swap_limit", memory.swap_limit);
        }
    } else {
        return Err(plain(format!(
            "cannot convert metric data to cgroups.Metrics: {}",
            data.type_url
        )));
    }
    Ok(rows)
}
