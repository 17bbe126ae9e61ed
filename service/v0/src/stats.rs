//! Figures of control groups of either version, in the messages of 0.2.

use std::collections::BTreeMap;

use api_grpc::v0;
use api_shim::cgroups::{v1, v2};
use api_shim::{Any, typeurl};

use crate::ApiError;

/// The message for the figures that a shim gave.
///
/// # Errors
/// [`ApiError::Other`] for figures of another kind.
pub(crate) fn convert(data: &Any, system_usage: u64) -> Result<v0::CgroupStats, ApiError> {
    let damaged = |error: typeurl::TypeUrlError| ApiError::Other(format!("metrics: {error}"));
    let mut stats = if typeurl::is::<v1::Metrics>(data) {
        of_v1(typeurl::decode(data).map_err(damaged)?)
    } else {
        of_v2(typeurl::decode(data).map_err(damaged)?)
    };
    stats.cpu_stats.get_or_insert_default().system_usage = system_usage;
    Ok(stats)
}

fn of_v1(metrics: v1::Metrics) -> v0::CgroupStats {
    let cpu = metrics.cpu.unwrap_or_default();
    let usage = cpu.usage.unwrap_or_default();
    let throttling = cpu.throttling.unwrap_or_default();
    let memory = metrics.memory.unwrap_or_default();
    let blkio = metrics.blkio.unwrap_or_default();
    let entry = |entry: v1::BlkIoEntry| v0::BlkioStatsEntry {
        major: entry.major,
        minor: entry.minor,
        op: entry.op,
        value: entry.value,
    };
    let entries = |all: Vec<v1::BlkIoEntry>| all.into_iter().map(entry).collect();
    v0::CgroupStats {
        cpu_stats: Some(v0::CpuStats {
            cpu_usage: Some(v0::CpuUsage {
                total_usage: usage.total,
                percpu_usage: usage.per_cpu,
                usage_in_kernelmode: usage.kernel,
                usage_in_usermode: usage.user,
            }),
            throttling_data: Some(v0::ThrottlingData {
                periods: throttling.periods,
                throttled_periods: throttling.throttled_periods,
                throttled_time: throttling.throttled_time,
            }),
            system_usage: 0,
        }),
        memory_stats: Some(v0::MemoryStats {
            cache: memory.cache,
            stats: memory_v1(&memory),
            usage: memory.usage.map(memory_data),
            swap_usage: memory.swap.map(memory_data),
            kernel_usage: memory.kernel.map(memory_data),
        }),
        blkio_stats: Some(v0::BlkioStats {
            io_service_bytes_recursive: entries(blkio.io_service_bytes_recursive),
            io_serviced_recursive: entries(blkio.io_serviced_recursive),
            io_queued_recursive: entries(blkio.io_queued_recursive),
            io_service_time_recursive: entries(blkio.io_service_time_recursive),
            io_wait_time_recursive: entries(blkio.io_wait_time_recursive),
            io_merged_recursive: entries(blkio.io_merged_recursive),
            io_time_recursive: entries(blkio.io_time_recursive),
            sectors_recursive: entries(blkio.sectors_recursive),
        }),
        hugetlb_stats: metrics
            .hugetlb
            .into_iter()
            .map(|pages| {
                // COMPAT: the limit is never told.
                let stats = v0::HugetlbStats {
                    usage: pages.usage,
                    max_usage: pages.max,
                    failcnt: pages.failcnt,
                    limit: 0,
                };
                (pages.pagesize, stats)
            })
            .collect(),
        pids_stats: metrics
            .pids
            .map(|pids| v0::PidsStats { current: pids.current, limit: pids.limit }),
    }
}

fn memory_data(entry: v1::MemoryEntry) -> v0::MemoryData {
    v0::MemoryData {
        usage: entry.usage,
        max_usage: entry.max,
        failcnt: entry.failcnt,
        limit: entry.limit,
    }
}

/// The lines of `memory.stat`, under the kernel's names.
fn memory_v1(memory: &v1::MemoryStat) -> BTreeMap<String, u64> {
    named(&[
        ("cache", memory.cache),
        ("rss", memory.rss),
        ("rss_huge", memory.rss_huge),
        ("mapped_file", memory.mapped_file),
        ("dirty", memory.dirty),
        ("writeback", memory.writeback),
        ("pgpgin", memory.pg_pg_in),
        ("pgpgout", memory.pg_pg_out),
        ("pgfault", memory.pg_fault),
        ("pgmajfault", memory.pg_maj_fault),
        ("inactive_anon", memory.inactive_anon),
        ("active_anon", memory.active_anon),
        ("inactive_file", memory.inactive_file),
        ("active_file", memory.active_file),
        ("unevictable", memory.unevictable),
        ("hierarchical_memory_limit", memory.hierarchical_memory_limit),
        ("hierarchical_memsw_limit", memory.hierarchical_swap_limit),
        ("total_cache", memory.total_cache),
        ("total_rss", memory.total_rss),
        ("total_rss_huge", memory.total_rss_huge),
        ("total_mapped_file", memory.total_mapped_file),
        ("total_dirty", memory.total_dirty),
        ("total_writeback", memory.total_writeback),
        ("total_pgpgin", memory.total_pg_pg_in),
        ("total_pgpgout", memory.total_pg_pg_out),
        ("total_pgfault", memory.total_pg_fault),
        ("total_pgmajfault", memory.total_pg_maj_fault),
        ("total_inactive_anon", memory.total_inactive_anon),
        ("total_active_anon", memory.total_active_anon),
        ("total_inactive_file", memory.total_inactive_file),
        ("total_active_file", memory.total_active_file),
        ("total_unevictable", memory.total_unevictable),
    ])
}

fn named(values: &[(&str, u64)]) -> BTreeMap<String, u64> {
    values.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect()
}

/// Version 2 counts other things; what means the same gets the old name.
fn of_v2(metrics: v2::Metrics) -> v0::CgroupStats {
    const NANOSECONDS: u64 = 1000;
    let cpu = metrics.cpu.unwrap_or_default();
    let memory = metrics.memory.unwrap_or_default();
    let events = metrics.memory_events.unwrap_or_default();
    let mut bytes = Vec::new();
    let mut operations = Vec::new();
    for entry in metrics.io.unwrap_or_default().usage {
        let value = |op: &str, value: u64| v0::BlkioStatsEntry {
            major: entry.major,
            minor: entry.minor,
            op: op.to_owned(),
            value,
        };
        bytes.push(value("Read", entry.rbytes));
        bytes.push(value("Write", entry.wbytes));
        operations.push(value("Read", entry.rios));
        operations.push(value("Write", entry.wios));
    }
    v0::CgroupStats {
        cpu_stats: Some(v0::CpuStats {
            cpu_usage: Some(v0::CpuUsage {
                total_usage: cpu.usage_usec.saturating_mul(NANOSECONDS),
                // Version 2 does not count by processor.
                percpu_usage: Vec::new(),
                usage_in_kernelmode: cpu.system_usec.saturating_mul(NANOSECONDS),
                usage_in_usermode: cpu.user_usec.saturating_mul(NANOSECONDS),
            }),
            throttling_data: Some(v0::ThrottlingData {
                periods: cpu.nr_periods,
                throttled_periods: cpu.nr_throttled,
                throttled_time: cpu.throttled_usec.saturating_mul(NANOSECONDS),
            }),
            system_usage: 0,
        }),
        memory_stats: Some(v0::MemoryStats {
            cache: memory.file,
            usage: Some(v0::MemoryData {
                usage: memory.usage,
                max_usage: memory.max_usage,
                failcnt: events.max,
                limit: memory.usage_limit,
            }),
            // Version 1 counts memory and swap together.
            swap_usage: Some(v0::MemoryData {
                usage: memory.usage.saturating_add(memory.swap_usage),
                max_usage: 0,
                failcnt: 0,
                limit: memory.usage_limit.saturating_add(memory.swap_limit),
            }),
            kernel_usage: None,
            stats: memory_v2(&memory),
        }),
        blkio_stats: Some(v0::BlkioStats {
            io_service_bytes_recursive: bytes,
            io_serviced_recursive: operations,
            ..v0::BlkioStats::default()
        }),
        hugetlb_stats: metrics
            .hugetlb
            .into_iter()
            .map(|pages| {
                let stats = v0::HugetlbStats { usage: pages.current, ..Default::default() };
                (pages.pagesize, stats)
            })
            .collect(),
        pids_stats: metrics
            .pids
            .map(|pids| v0::PidsStats { current: pids.current, limit: pids.limit }),
    }
}

/// Version 2 counts whole trees, so that each value is its own total.
fn memory_v2(memory: &v2::MemoryStat) -> BTreeMap<String, u64> {
    let values = [
        ("cache", memory.file),
        ("rss", memory.anon),
        ("rss_huge", memory.anon_thp),
        ("mapped_file", memory.file_mapped),
        ("dirty", memory.file_dirty),
        ("writeback", memory.file_writeback),
        ("pgfault", memory.pgfault),
        ("pgmajfault", memory.pgmajfault),
        ("inactive_anon", memory.inactive_anon),
        ("active_anon", memory.active_anon),
        ("inactive_file", memory.inactive_file),
        ("active_file", memory.active_file),
        ("unevictable", memory.unevictable),
    ];
    let mut stats = named(&values);
    stats.extend(values.map(|(name, value)| (format!("total_{name}"), value)));
    stats.insert("hierarchical_memory_limit".to_owned(), memory.usage_limit);
    stats
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_version_1() {
        let metrics = v1::Metrics {
            cpu: Some(v1::CpuStat {
                usage: Some(v1::CpuUsage { total: 5, per_cpu: vec![2, 3], ..Default::default() }),
                ..Default::default()
            }),
            memory: Some(v1::MemoryStat {
                cache: 7,
                total_inactive_file: 8,
                usage: Some(v1::MemoryEntry { limit: 1, usage: 2, max: 3, failcnt: 4 }),
                ..Default::default()
            }),
            hugetlb: vec![v1::HugetlbStat {
                usage: 1,
                pagesize: "2MB".to_owned(),
                ..Default::default()
            }],
            pids: Some(v1::PidsStat { current: 9, limit: 10 }),
            ..Default::default()
        };
        let stats = convert(&typeurl::encode(&metrics), 77).unwrap();
        let cpu = stats.cpu_stats.unwrap();
        assert_eq!((cpu.system_usage, cpu.cpu_usage.unwrap().percpu_usage), (77, vec![2, 3]));
        let memory = stats.memory_stats.unwrap();
        assert_eq!((memory.cache, memory.stats["total_inactive_file"]), (7, 8));
        assert_eq!(memory.usage.unwrap().max_usage, 3);
        assert_eq!(stats.hugetlb_stats["2MB"].usage, 1);
        assert_eq!(stats.pids_stats.unwrap().limit, 10);
    }

    #[test]
    fn figures_of_version_2() {
        let metrics = v2::Metrics {
            cpu: Some(v2::CpuStat { usage_usec: 5, ..Default::default() }),
            memory: Some(v2::MemoryStat {
                anon: 3,
                file: 7,
                usage: 11,
                usage_limit: u64::MAX,
                swap_limit: u64::MAX,
                ..Default::default()
            }),
            io: Some(v2::IoStat {
                usage: vec![v2::IoEntry { major: 8, wios: 4, ..Default::default() }],
                ..Default::default()
            }),
            ..Default::default()
        };
        let stats = convert(&typeurl::encode(&metrics), 1).unwrap();
        assert_eq!(stats.cpu_stats.unwrap().cpu_usage.unwrap().total_usage, 5000);
        let memory = stats.memory_stats.unwrap();
        assert_eq!((memory.stats["total_rss"], memory.stats["cache"]), (3, 7));
        assert_eq!(memory.swap_usage.unwrap().limit, u64::MAX);
        assert_eq!(stats.blkio_stats.unwrap().io_serviced_recursive[1].value, 4);
        assert!(convert(&Any { type_url: "x".to_owned(), value: vec![1] }, 1).is_err());
    }
}
