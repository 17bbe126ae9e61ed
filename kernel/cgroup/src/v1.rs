//! Metrics of a version 1 group. What a machine's kernel does not tell stays at zero.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use api_shim::cgroups::v1::{
    BlkIoEntry, BlkIoStat, CpuStat, CpuUsage, HugetlbStat, MemoryEntry, MemoryOomControl,
    MemoryStat, Metrics, PidsStat, RdmaEntry, RdmaStat, Throttle,
};

use crate::folder::Folder;
use crate::host::TICK_NANOSECONDS;
use crate::{Error, Result, parse};

/// The controllers that tell figures.
const MEASURED: &[&str] = &["cpu", "cpuacct", "memory", "pids", "blkio", "hugetlb", "rdma"];

/// Reads what each controller's folder tells.
pub(crate) fn metrics(folders: &BTreeMap<String, PathBuf>) -> Result<Metrics> {
    // COMPAT: the processor's messages are there even if the controller is not.
    let mut cpu =
        CpuStat { usage: Some(CpuUsage::default()), throttling: Some(Throttle::default()) };
    let mut metrics = Metrics::default();
    let mut met = false;
    for (controller, path) in folders {
        if !MEASURED.contains(&controller.as_str()) {
            continue;
        }
        // A controller whose folder is gone is left out; a group without any is an error below.
        let mut folder = match Folder::open(path) {
            Ok(folder) => folder,
            Err(Error::NotFound { .. }) => continue,
            Err(error) => return Err(error),
        };
        match controller.as_str() {
            "cpu" => cpu.throttling = Some(throttle(&mut folder)?),
            "cpuacct" => cpu.usage = Some(cpu_usage(&mut folder)?),
            "memory" => {
                metrics.memory = Some(memory(&mut folder)?);
                metrics.memory_oom_control = Some(oom_control(&mut folder)?);
            }
            "pids" => metrics.pids = Some(pids(&mut folder)?),
            "blkio" => metrics.blkio = Some(blkio(&mut folder)?),
            "hugetlb" => metrics.hugetlb = hugetlb(&mut folder)?,
            "rdma" => metrics.rdma = Some(rdma(&mut folder)?),
            _ => continue,
        }
        folder.check()?;
        met = true;
    }
    if !met {
        let path = folders.values().next().cloned().unwrap_or_default();
        return Err(Error::NotFound { path });
    }
    metrics.cpu = Some(cpu);
    Ok(metrics)
}

fn throttle(folder: &mut Folder) -> Result<Throttle> {
    let mut throttle = Throttle::default();
    for (key, value) in parse::keyed(folder.read("cpu.stat")?.unwrap_or_default()) {
        match key {
            "nr_periods" => throttle.periods = value,
            "nr_throttled" => throttle.throttled_periods = value,
            "throttled_time" => throttle.throttled_time = value,
            _ => {}
        }
    }
    Ok(throttle)
}

fn cpu_usage(folder: &mut Folder) -> Result<CpuUsage> {
    let mut usage =
        CpuUsage { total: folder.number("cpuacct.usage")?.unwrap_or(0), ..Default::default() };
    for (key, ticks) in parse::keyed(folder.read("cpuacct.stat")?.unwrap_or_default()) {
        match key {
            "user" => usage.user = ticks.saturating_mul(TICK_NANOSECONDS),
            "system" => usage.kernel = ticks.saturating_mul(TICK_NANOSECONDS),
            _ => {}
        }
    }
    let per_cpu = folder.read("cpuacct.usage_percpu")?.unwrap_or_default();
    usage.per_cpu = per_cpu.split_ascii_whitespace().filter_map(|time| time.parse().ok()).collect();
    Ok(usage)
}

fn memory(folder: &mut Folder) -> Result<MemoryStat> {
    let mut stat = MemoryStat::default();
    for (key, value) in parse::keyed(folder.read("memory.stat")?.unwrap_or_default()) {
        let field = match key {
            "cache" => &mut stat.cache,
            "rss" => &mut stat.rss,
            "rss_huge" => &mut stat.rss_huge,
            "mapped_file" => &mut stat.mapped_file,
            "dirty" => &mut stat.dirty,
            "writeback" => &mut stat.writeback,
            "pgpgin" => &mut stat.pg_pg_in,
            "pgpgout" => &mut stat.pg_pg_out,
            "pgfault" => &mut stat.pg_fault,
            "pgmajfault" => &mut stat.pg_maj_fault,
            "inactive_anon" => &mut stat.inactive_anon,
            "active_anon" => &mut stat.active_anon,
            "inactive_file" => &mut stat.inactive_file,
            "active_file" => &mut stat.active_file,
            "unevictable" => &mut stat.unevictable,
            "hierarchical_memory_limit" => &mut stat.hierarchical_memory_limit,
            "hierarchical_memsw_limit" => &mut stat.hierarchical_swap_limit,
            "total_cache" => &mut stat.total_cache,
            "total_rss" => &mut stat.total_rss,
            "total_rss_huge" => &mut stat.total_rss_huge,
            "total_mapped_file" => &mut stat.total_mapped_file,
            "total_dirty" => &mut stat.total_dirty,
            "total_writeback" => &mut stat.total_writeback,
            "total_pgpgin" => &mut stat.total_pg_pg_in,
            "total_pgpgout" => &mut stat.total_pg_pg_out,
            "total_pgfault" => &mut stat.total_pg_fault,
            "total_pgmajfault" => &mut stat.total_pg_maj_fault,
            "total_inactive_anon" => &mut stat.total_inactive_anon,
            "total_active_anon" => &mut stat.total_active_anon,
            "total_inactive_file" => &mut stat.total_inactive_file,
            "total_active_file" => &mut stat.total_active_file,
            "total_unevictable" => &mut stat.total_unevictable,
            _ => continue,
        };
        *field = value;
    }
    stat.usage = Some(memory_entry(folder, "memory")?);
    stat.swap = Some(memory_entry(folder, "memory.memsw")?);
    stat.kernel = Some(memory_entry(folder, "memory.kmem")?);
    stat.kernel_tcp = Some(memory_entry(folder, "memory.kmem.tcp")?);
    Ok(stat)
}

fn memory_entry(folder: &mut Folder, prefix: &str) -> Result<MemoryEntry> {
    let mut number = |name: &str| -> Result<u64> {
        Ok(folder.number(&format!("{prefix}.{name}"))?.unwrap_or(0))
    };
    Ok(MemoryEntry {
        limit: number("limit_in_bytes")?,
        usage: number("usage_in_bytes")?,
        max: number("max_usage_in_bytes")?,
        failcnt: number("failcnt")?,
    })
}

fn oom_control(folder: &mut Folder) -> Result<MemoryOomControl> {
    let mut control = MemoryOomControl::default();
    for (key, value) in parse::keyed(folder.read("memory.oom_control")?.unwrap_or_default()) {
        match key {
            "oom_kill_disable" => control.oom_kill_disable = value,
            "under_oom" => control.under_oom = value,
            "oom_kill" => control.oom_kill = value,
            _ => {}
        }
    }
    Ok(control)
}

fn pids(folder: &mut Folder) -> Result<PidsStat> {
    // COMPAT: no limit is told as 0 here, and as the largest number in version 2.
    let limit = folder.number("pids.max")?.filter(|limit| *limit != u64::MAX).unwrap_or(0);
    Ok(PidsStat { current: folder.number("pids.current")?.unwrap_or(0), limit })
}

fn blkio(folder: &mut Folder) -> Result<BlkIoStat> {
    let mut stat = BlkIoStat::default();
    let devices = device_names();
    // The scheduler's figures, where one keeps them.
    stat.io_serviced_recursive =
        entries(folder, &["io_serviced_recursive", "bfq.io_serviced_recursive"], &devices)?;
    stat.io_service_bytes_recursive = entries(
        folder,
        &["io_service_bytes_recursive", "bfq.io_service_bytes_recursive"],
        &devices,
    )?;
    if folder.has("blkio.io_queued_recursive") {
        stat.io_queued_recursive = entries(folder, &["io_queued_recursive"], &devices)?;
        stat.io_service_time_recursive = entries(folder, &["io_service_time_recursive"], &devices)?;
        stat.io_wait_time_recursive = entries(folder, &["io_wait_time_recursive"], &devices)?;
        stat.io_merged_recursive = entries(folder, &["io_merged_recursive"], &devices)?;
        stat.io_time_recursive = entries(folder, &["time_recursive"], &devices)?;
        stat.sectors_recursive = entries(folder, &["sectors_recursive"], &devices)?;
    }
    if stat.io_serviced_recursive.is_empty() && stat.io_service_bytes_recursive.is_empty() {
        // No device here has such a scheduler; the throttling layer counts as well.
        stat.io_serviced_recursive =
            entries(folder, &["throttle.io_serviced_recursive", "throttle.io_serviced"], &devices)?;
        stat.io_service_bytes_recursive = entries(
            folder,
            &["throttle.io_service_bytes_recursive", "throttle.io_service_bytes"],
            &devices,
        )?;
    }
    Ok(stat)
}

/// The lines of the first of these files that exists.
fn entries(
    folder: &mut Folder,
    names: &[&str],
    devices: &BTreeMap<(u64, u64), String>,
) -> Result<Vec<BlkIoEntry>> {
    for name in names {
        let Some(text) = folder.read(&format!("blkio.{name}"))? else { continue };
        return Ok(parse::blkio(text)
            .map(|line| BlkIoEntry {
                op: line.op.to_owned(),
                device: devices.get(&line.device).cloned().unwrap_or_default(),
                major: line.device.0,
                minor: line.device.1,
                value: line.value,
            })
            .collect());
    }
    Ok(Vec::new())
}

/// `/dev/vda` and its like by number.
fn device_names() -> BTreeMap<(u64, u64), String> {
    let text = std::fs::read_to_string("/proc/diskstats").unwrap_or_default();
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split_ascii_whitespace();
            let number = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
            Some((number, format!("/dev/{}", fields.next()?)))
        })
        .collect()
}

fn hugetlb(folder: &mut Folder) -> Result<Vec<HugetlbStat>> {
    let mut stats = Vec::new();
    for pagesize in huge_page_sizes() {
        let Some(usage) = folder.number(&format!("hugetlb.{pagesize}.usage_in_bytes"))? else {
            continue;
        };
        stats.push(HugetlbStat {
            usage,
            max: folder.number(&format!("hugetlb.{pagesize}.max_usage_in_bytes"))?.unwrap_or(0),
            failcnt: folder.number(&format!("hugetlb.{pagesize}.failcnt"))?.unwrap_or(0),
            pagesize: pagesize.clone(),
        });
    }
    Ok(stats)
}

/// `2MB`, `1GB`: the sizes of huge pages that this machine has, as the files are named. Asked
/// once: they are a property of the processor and the kernel.
pub(crate) fn huge_page_sizes() -> &'static [String] {
    static SIZES: OnceLock<Vec<String>> = OnceLock::new();
    SIZES.get_or_init(|| {
        let Ok(entries) = Path::new("/sys/kernel/mm/hugepages").read_dir() else {
            return Vec::new();
        };
        let mut sizes: Vec<u64> = entries
            .flatten()
            .filter_map(|entry| {
                let name = entry.file_name();
                name.to_str()?.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()
            })
            .collect();
        sizes.sort_unstable();
        sizes.into_iter().map(huge_page_name).collect()
    })
}

fn huge_page_name(kibibytes: u64) -> String {
    match kibibytes {
        size if size >= 1 << 20 && size % (1 << 20) == 0 => format!("{}GB", size >> 20),
        size if size >= 1 << 10 && size % (1 << 10) == 0 => format!("{}MB", size >> 10),
        size => format!("{size}KB"),
    }
}

fn rdma(folder: &mut Folder) -> Result<RdmaStat> {
    let mut read = |name: &str| -> Result<Vec<RdmaEntry>> {
        let text = folder.read(name)?.unwrap_or_default();
        Ok(parse::nested(text)
            .map(|(device, pairs)| {
                let mut entry = RdmaEntry { device: device.to_owned(), ..Default::default() };
                for (key, value) in pairs {
                    let value = u32::try_from(value).unwrap_or(u32::MAX);
                    match key {
                        "hca_handle" => entry.hca_handles = value,
                        "hca_object" => entry.hca_objects = value,
                        _ => {}
                    }
                }
                entry
            })
            .collect())
    };
    Ok(RdmaStat { current: read("rdma.current")?, limit: read("rdma.max")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(
        controller: &str,
        files: &[(&str, &str)],
    ) -> (tempfile::TempDir, BTreeMap<String, PathBuf>) {
        let folder = tempfile::tempdir_in("/dev/shm").expect("tempdir");
        for (name, text) in files.iter().chain(&[("cgroup.procs", "")]) {
            std::fs::write(folder.path().join(name), text).expect("write");
        }
        let folders = BTreeMap::from([(controller.to_owned(), folder.path().to_owned())]);
        (folder, folders)
    }

    #[test]
    fn memory_is_read_with_its_four_kinds_of_use() {
        let (_folder, folders) = group(
            "memory",
            &[
                (
                    "memory.stat",
                    "cache 1\nrss 2\nshmem 9\nhierarchical_memsw_limit 3\ntotal_rss 4\n",
                ),
                ("memory.usage_in_bytes", "5\n"),
                ("memory.limit_in_bytes", "6\n"),
                ("memory.max_usage_in_bytes", "7\n"),
                ("memory.failcnt", "8\n"),
                ("memory.kmem.usage_in_bytes", "10\n"),
                ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 11\n"),
            ],
        );
        let read = metrics(&folders).expect("metrics");
        let memory = read.memory.expect("memory");
        assert_eq!((memory.cache, memory.rss, memory.total_rss), (1, 2, 4));
        assert_eq!(memory.hierarchical_swap_limit, 3);
        assert_eq!(memory.usage, Some(MemoryEntry { limit: 6, usage: 5, max: 7, failcnt: 8 }));
        assert_eq!(memory.kernel.map(|entry| entry.usage), Some(10));
        assert_eq!(memory.swap, Some(MemoryEntry::default()));
        assert_eq!(read.memory_oom_control.map(|control| control.oom_kill), Some(11));
        assert!(read.cpu.is_some_and(|cpu| cpu.usage.is_some() && cpu.throttling.is_some()));
    }

    #[test]
    fn ticks_become_nanoseconds_and_no_limit_is_zero() {
        let (_folder, folders) = group(
            "cpuacct",
            &[
                ("cpuacct.usage", "123\n"),
                ("cpuacct.usage_percpu", "100 23 \n"),
                ("cpuacct.stat", "user 2\nsystem 3\n"),
            ],
        );
        let usage = metrics(&folders).expect("metrics").cpu.and_then(|cpu| cpu.usage).expect("cpu");
        assert_eq!((usage.total, usage.user, usage.kernel), (123, 20_000_000, 30_000_000));
        assert_eq!(usage.per_cpu, [100, 23]);

        let (_folder, folders) = group("pids", &[("pids.current", "4\n"), ("pids.max", "max\n")]);
        let read = metrics(&folders).expect("metrics").pids;
        assert_eq!(read, Some(PidsStat { current: 4, limit: 0 }));
    }

    #[test]
    fn block_devices_fall_back_to_the_throttling_layer() {
        let (_folder, folders) = group(
            "blkio",
            &[
                ("blkio.bfq.io_serviced_recursive", "Total 0\n"),
                ("blkio.bfq.io_service_bytes_recursive", "Total 0\n"),
                ("blkio.throttle.io_serviced", "254:0 Read 2\n254:0 Total 2\nTotal 2\n"),
                ("blkio.throttle.io_service_bytes", "254:0 Read 4096\nTotal 4096\n"),
            ],
        );
        let blkio = metrics(&folders).expect("metrics").blkio.expect("blkio");
        assert_eq!(blkio.io_serviced_recursive.len(), 2);
        assert_eq!(blkio.io_service_bytes_recursive[0].value, 4096);
        assert_eq!(blkio.io_service_bytes_recursive[0].op, "Read");
    }

    #[test]
    fn a_group_that_is_gone_is_an_error() {
        let (folder, folders) = group("pids", &[]);
        drop(folder);
        assert!(matches!(metrics(&folders), Err(Error::NotFound { .. })));
    }

    #[test]
    fn huge_pages_are_named_as_their_files() {
        assert_eq!(huge_page_name(2048), "2MB");
        assert_eq!(huge_page_name(1 << 20), "1GB");
        assert_eq!(huge_page_name(64), "64KB");
    }
}
