#include "checkpointer/sleepnotes.h"

#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "checkpointer/tracee/procfs.h"
#include "store/base/cleanup.h"
#include "store/base/io.h"

#define CPUS_MOST 4096

/* Offsets of the CPUs' clocks, measured when first needed. */
struct cpu_clocks {
	uint64_t ahead[CPUS_MOST]; /* CLOCK_MONOTONIC minus the CPU's clock; 0: not measured yet */
};

static uint64_t exec_start(pid_t pid, pid_t tid)
{
	cleanup_free char *text = NULL;
	struct err ignored;
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/task/%d/sched", pid, tid);
	if (read_text(AT_FDCWD, path, &text, NULL, &ignored) < 0)
		return 0;
	return proc_parse_exec_start(text);
}

/* A thread that has just arrived on a CPU has its exec_start from then; one that was there already
 * has it from the last tick, which makes a sleep look a few milliseconds younger than it is. */
static uint64_t measure(int cpu)
{
	size_t size = CPU_ALLOC_SIZE(CPUS_MOST);
	cpu_set_t *only = CPU_ALLOC(CPUS_MOST);
	uint64_t start = 0;

	if (!only)
		return 0;
	CPU_ZERO_S(size, only);
	CPU_SET_S(cpu, size, only);
	if (sched_setaffinity(0, size, only) == 0)
		start = exec_start(getpid(), gettid());
	CPU_FREE(only);
	return start ? clock_ns(CLOCK_MONOTONIC) - start : 0;
}

static void note_thread(struct sleep_notes *notes, struct cpu_clocks *clocks, pid_t pid, pid_t tid)
{
	struct proc_stat stat;
	struct err ignored;
	uint64_t start;

	if (proc_read_stat(pid, tid, &stat, &ignored) < 0 || stat.state != 'S' ||
	    stat.processor < 0 || stat.processor >= CPUS_MOST)
		return;
	start = exec_start(pid, tid);
	if (!start)
		return;
	if (!clocks->ahead[stat.processor])
		clocks->ahead[stat.processor] = measure(stat.processor);
	if (!clocks->ahead[stat.processor])
		return;
	notes->note[notes->n].tid = tid;
	notes->note[notes->n++].since = start + clocks->ahead[stat.processor];
}

static void note_process(struct sleep_notes *notes, struct cpu_clocks *clocks, pid_t pid)
{
	cleanup_free int *tids = NULL;
	struct err ignored;
	size_t n;

	if (proc_list_numbers(pid, "task", &tids, &n, &ignored) < 0)
		return;
	for (size_t i = 0; i < n && notes->n < SLEEP_NOTES_MOST; i++)
		note_thread(notes, clocks, pid, tids[i]);
}

void sleep_notes_take(struct sleep_notes *ret, const pid_t *pids, size_t n)
{
	cleanup_free struct cpu_clocks *clocks = calloc(1, sizeof(*clocks));
	size_t size = CPU_ALLOC_SIZE(CPUS_MOST);
	cpu_set_t *home = CPU_ALLOC(CPUS_MOST);

	ret->n = 0;
	if (clocks && home && sched_getaffinity(0, size, home) == 0) {
		for (size_t i = 0; i < n; i++)
			note_process(ret, clocks, pids[i]);
		sched_setaffinity(0, size, home);
	}
	CPU_FREE(home);
}

uint64_t sleep_notes_find(const struct sleep_notes *notes, pid_t tid)
{
	for (size_t i = 0; i < notes->n; i++)
		if (notes->note[i].tid == tid)
			return notes->note[i].since;
	return 0;
}
