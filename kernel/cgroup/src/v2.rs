//! Metrics of a version 2 group. What a machine's kernel does not tell stays at zero.

use std::path::Path;

use api_shim::cgroups::v2::{
    CpuStat, HugeTlbStat, IoEntry, IoStat, MemoryEvents, MemoryStat, Metrics, PidsStat, PsiData,
    PsiStats, RdmaEntry, RdmaStat,
};

use crate::Result;
use crate::folder::Folder;
use crate::parse::{self, Pressure};
use crate::v1::huge_page_sizes;

/// Reads what the group's folder tells.
pub(crate) fn metrics(path: &Path) -> Result<Metrics> {
    let mut folder = Folder::open(path)?;
    let metrics = Metrics {
        pids: Some(PidsStat {
            current: folder.number("pids.current")?.unwrap_or(0),
            limit: folder.number("pids.max")?.unwrap_or(0),
        }),
        cpu: Some(cpu(&mut folder)?),
        memory: Some(memory(&mut folder)?),
        rdma: Some(RdmaStat {
            current: rdma(&mut folder, "rdma.current")?,
            limit: rdma(&mut folder, "rdma.max")?,
        }),
        io: Some(io(&mut folder)?),
        hugetlb: hugetlb(&mut folder)?,
        memory_events: memory_events(&mut folder)?,
        network: Vec::new(),
    };
    // Files that vanished half way would be zeros that nobody can tell from true ones.
    folder.check()?;
    Ok(metrics)
}

fn cpu(folder: &mut Folder) -> Result<CpuStat> {
    let mut stat = CpuStat::default();
    for (key, value) in parse::keyed(folder.read("cpu.stat")?.unwrap_or_default()) {
        let field = match key {
            "usage_usec" => &mut stat.usage_usec,
            "user_usec" => &mut stat.user_usec,
            "system_usec" => &mut stat.system_usec,
            "nr_periods" => &mut stat.nr_periods,
            "nr_throttled" => &mut stat.nr_throttled,
            "throttled_usec" => &mut stat.throttled_usec,
            "nr_bursts" => &mut stat.nr_bursts,
            "burst_usec" => &mut stat.burst_usec,
            _ => continue,
        };
        *field = value;
    }
    stat.psi = pressure(folder, "cpu.pressure")?;
    Ok(stat)
}

fn memory(folder: &mut Folder) -> Result<MemoryStat> {
    let mut stat = MemoryStat::default();
    for (key, value) in parse::keyed(folder.read("memory.stat")?.unwrap_or_default()) {
        let field = match key {
            "anon" => &mut stat.anon,
            "file" => &mut stat.file,
            "kernel_stack" => &mut stat.kernel_stack,
            "slab" => &mut stat.slab,
            "sock" => &mut stat.sock,
            "shmem" => &mut stat.shmem,
            "file_mapped" => &mut stat.file_mapped,
            "file_dirty" => &mut stat.file_dirty,
            "file_writeback" => &mut stat.file_writeback,
            "anon_thp" => &mut stat.anon_thp,
            "inactive_anon" => &mut stat.inactive_anon,
            "active_anon" => &mut stat.active_anon,
            "inactive_file" => &mut stat.inactive_file,
            "active_file" => &mut stat.active_file,
            "unevictable" => &mut stat.unevictable,
            "slab_reclaimable" => &mut stat.slab_reclaimable,
            "slab_unreclaimable" => &mut stat.slab_unreclaimable,
            "pgfault" => &mut stat.pgfault,
            "pgmajfault" => &mut stat.pgmajfault,
            // Kernels since 5.9 tell two figures where there was one; the field is their sum.
            "workingset_refault" | "workingset_refault_anon" | "workingset_refault_file" => {
                stat.workingset_refault = stat.workingset_refault.saturating_add(value);
                continue;
            }
            "workingset_activate" | "workingset_activate_anon" | "workingset_activate_file" => {
                stat.workingset_activate = stat.workingset_activate.saturating_add(value);
                continue;
            }
            "workingset_nodereclaim" => &mut stat.workingset_nodereclaim,
            "pgrefill" => &mut stat.pgrefill,
            "pgscan" => &mut stat.pgscan,
            "pgsteal" => &mut stat.pgsteal,
            "pgactivate" => &mut stat.pgactivate,
            "pgdeactivate" => &mut stat.pgdeactivate,
            "pglazyfree" => &mut stat.pglazyfree,
            "pglazyfreed" => &mut stat.pglazyfreed,
            "thp_fault_alloc" => &mut stat.thp_fault_alloc,
            "thp_collapse_alloc" => &mut stat.thp_collapse_alloc,
            _ => continue,
        };
        *field = value;
    }
    // COMPAT: no limit is told as the largest number.
    stat.usage = folder.number("memory.current")?.unwrap_or(0);
    stat.usage_limit = folder.number("memory.max")?.unwrap_or(0);
    stat.max_usage = folder.number("memory.peak")?.unwrap_or(0);
    stat.swap_usage = folder.number("memory.swap.current")?.unwrap_or(0);
    stat.swap_limit = folder.number("memory.swap.max")?.unwrap_or(0);
    stat.swap_max_usage = folder.number("memory.swap.peak")?.unwrap_or(0);
    stat.psi = pressure(folder, "memory.pressure")?;
    Ok(stat)
}

fn memory_events(folder: &mut Folder) -> Result<Option<MemoryEvents>> {
    let Some(text) = folder.read("memory.events")? else { return Ok(None) };
    let mut events = MemoryEvents::default();
    for (key, value) in parse::keyed(text) {
        match key {
            "low" => events.low = value,
            "high" => events.high = value,
            "max" => events.max = value,
            "oom" => events.oom = value,
            "oom_kill" => events.oom_kill = value,
            _ => {}
        }
    }
    Ok(Some(events))
}

fn io(folder: &mut Folder) -> Result<IoStat> {
    let mut usage = Vec::new();
    for (first, pairs) in parse::nested(folder.read("io.stat")?.unwrap_or_default()) {
        let Some((major, minor)) = parse::device(first) else { continue };
        let mut entry = IoEntry { major, minor, ..Default::default() };
        for (key, value) in pairs {
            match key {
                "rbytes" => entry.rbytes = value,
                "wbytes" => entry.wbytes = value,
                "rios" => entry.rios = value,
                "wios" => entry.wios = value,
                _ => {}
            }
        }
        usage.push(entry);
    }
    Ok(IoStat { usage, psi: pressure(folder, "io.pressure")? })
}

fn rdma(folder: &mut Folder, name: &str) -> Result<Vec<RdmaEntry>> {
    let text = folder.read(name)?.unwrap_or_default();
    let entries = parse::nested(text).map(|(device, pairs)| {
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
    });
    Ok(entries.collect())
}

fn hugetlb(folder: &mut Folder) -> Result<Vec<HugeTlbStat>> {
    let mut stats = Vec::new();
    for pagesize in huge_page_sizes() {
        let Some(current) = folder.number(&format!("hugetlb.{pagesize}.current"))? else {
            continue;
        };
        let max = folder.number(&format!("hugetlb.{pagesize}.max"))?.unwrap_or(0);
        stats.push(HugeTlbStat { current, max, pagesize: pagesize.clone() });
    }
    Ok(stats)
}

fn pressure(folder: &mut Folder, name: &str) -> Result<Option<PsiStats>> {
    let Some(text) = folder.read(name)? else { return Ok(None) };
    let message = |line: Pressure| PsiData {
        avg10: line.avg10,
        avg60: line.avg60,
        avg300: line.avg300,
        total: line.total,
    };
    let (some, full) = parse::pressure(text);
    Ok(Some(PsiStats { some: some.map(message), full: full.map(message) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_read_file_by_file() {
        let folder = tempfile::tempdir_in("/dev/shm").expect("tempdir");
        for (name, text) in [
            ("cgroup.procs", ""),
            ("pids.current", "3\n"),
            ("pids.max", "max\n"),
            ("cpu.stat", "usage_usec 9\nuser_usec 5\nsystem_usec 4\nnr_throttled 1\n"),
            ("cpu.pressure", "some avg10=0.50 avg60=0.00 avg300=0.00 total=8\n"),
            (
                "memory.stat",
                "anon 1\nfile 2\nworkingset_refault_anon 3\nworkingset_refault_file 4\n",
            ),
            ("memory.current", "100\n"),
            ("memory.max", "200\n"),
            ("memory.events", "low 0\nhigh 1\nmax 2\noom 3\noom_kill 4\noom_group_kill 0\n"),
            (
                "io.stat",
                "254:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n(unknown) rbytes=1\n",
            ),
        ] {
            std::fs::write(folder.path().join(name), text).expect("write");
        }
        let read = metrics(folder.path()).expect("metrics");
        assert_eq!(read.pids, Some(PidsStat { current: 3, limit: u64::MAX }));
        let cpu = read.cpu.expect("cpu");
        assert_eq!((cpu.usage_usec, cpu.nr_throttled), (9, 1));
        assert_eq!(cpu.psi.and_then(|psi| psi.some).map(|some| some.total), Some(8));
        let memory = read.memory.expect("memory");
        assert_eq!((memory.anon, memory.workingset_refault), (1, 7));
        assert_eq!((memory.usage, memory.usage_limit, memory.swap_limit), (100, 200, 0));
        assert_eq!(read.memory_events.map(|events| events.oom_kill), Some(4));
        let io = read.io.expect("io");
        assert_eq!(
            io.usage,
            [IoEntry { major: 254, minor: 0, rbytes: 1, wbytes: 2, rios: 3, wios: 4 }]
        );
    }
}
