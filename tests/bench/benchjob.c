/*
 * benchjob.c: the job that tools/bench measures with. Unlike pagejob it tells at once what it has
 * seen, and its memory can be laid out in several ways.
 *
 * Usage: benchjob [KEY=VALUE]...
 *
 *   size=2048     MiB of half-compressible pages
 *   rate=320      MiB/s rewritten at pseudo-random pages
 *   step=100      ms of a step
 *   threads=2     that share the work
 *   layout=one    one region; small: `regions` of them, which do not merge; huge: transparent huge
 *                 pages; fork: `processes` processes that share what none of them has rewritten
 *   mode=steps    steps at a fixed pace; work: cycles of fixed work without a pause, in each of
 * which `burst` MiB are rewritten and `spin` million rounds computed by each thread; outrun: all of
 * the memory is rewritten over and over idle=0        further threads that wait steps=0       ends
 * after that many steps or cycles; 0: never regions=20000, processes=16, burst=512, spin=500
 *
 * Lines on standard output:
 *   ready                            the memory is filled
 *   step N STEP_US GAP_US CPU_US     a step or cycle has ended: how long it took, the longest time
 *                                    since the last line between two beats of a thread that sleeps
 *                                    1 ms at a time, and CPU time of the process so far
 *   awake REALTIME_US                that thread has found more than 200 ms to have passed between
 * two beats, by the time of day: it was stopped or recovered
 */
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include "halfpage.h"

#define MIB	     (1ull << 20)
#define PAGE	     4096ull
#define HUGE	     (2 * MIB)
#define AWAKE_US     200000
#define THREADS_MOST 4096

enum mode { MODE_STEPS, MODE_WORK, MODE_OUTRUN };
enum layout { LAYOUT_ONE, LAYOUT_SMALL, LAYOUT_HUGE, LAYOUT_FORK };

struct job {
	uint64_t size, rate, step_ms, threads, idle, regions, processes, burst, spin, steps;
	enum mode mode;
	enum layout layout;
	char *memory;
	uint64_t n_pages, pages_a_region;
	pthread_barrier_t barrier;
	atomic_llong gap_us;
};

struct worker {
	struct job *job;
	uint64_t first, n; /* its pages */
	uint64_t sink;	   /* keeps the computation from being dropped */
};

static int64_t now_us(clockid_t clock)
{
	struct timespec ts;

	clock_gettime(clock, &ts);
	return ts.tv_sec * 1000000ll + ts.tv_nsec / 1000;
}

/* A line in one write: several threads do, and none must wait for another's lock. */
static void say(const char *line)
{
	if (write(STDOUT_FILENO, line, strlen(line)) < 0)
		_exit(1);
}

/* ---- memory -------------------------------------------------------------------------------- */

static uint64_t *page_at(const struct job *job, uint64_t index)
{
	uint64_t place = index;

	if (job->layout ==
	    LAYOUT_SMALL) /* a page that may not be touched lies between two regions */
		place += index / job->pages_a_region;
	return (uint64_t *)(void *)(job->memory + place * PAGE);
}

static void *reserve(uint64_t bytes, int protection)
{
	void *memory =
		mmap(NULL, bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (memory == MAP_FAILED) {
		perror("benchjob: mmap");
		exit(1);
	}
	return memory;
}

static void lay_out_small(struct job *job)
{
	uint64_t each;

	job->pages_a_region = job->n_pages / job->regions ? job->n_pages / job->regions : 1;
	job->n_pages = job->pages_a_region * job->regions;
	each = (job->pages_a_region + 1) * PAGE;
	job->memory = reserve(each * job->regions, PROT_NONE);
	for (uint64_t i = 0; i < job->regions; i++)
		if (mprotect(job->memory + i * each, job->pages_a_region * PAGE,
			     PROT_READ | PROT_WRITE)) {
			perror("benchjob: mprotect");
			exit(1);
		}
}

static void lay_out(struct job *job)
{
	uint64_t bytes = job->n_pages * PAGE;
	uintptr_t aligned;

	if (job->layout == LAYOUT_SMALL) {
		lay_out_small(job);
		return;
	}
	job->memory = reserve(bytes + HUGE, PROT_READ | PROT_WRITE);
	if (job->layout == LAYOUT_HUGE) {
		aligned = ((uintptr_t)job->memory + HUGE - 1) & ~(HUGE - 1);
		job->memory += aligned - (uintptr_t)job->memory;
		madvise(job->memory, bytes, MADV_HUGEPAGE);
	}
}

/* ---- work ---------------------------------------------------------------------------------- */

static void rewrite(struct worker *w, uint64_t step, uint64_t n)
{
	for (uint64_t i = 0; i < n; i++) {
		uint64_t index = w->first + mix(step << 32 | i) % w->n;

		write_page(page_at(w->job, index), index, step);
	}
}

static void rewrite_all(struct worker *w, uint64_t step)
{
	for (uint64_t index = w->first; index < w->first + w->n; index++)
		write_page(page_at(w->job, index), index, step);
}

static void compute(struct worker *w)
{
	uint64_t x = w->sink | 1;

	for (uint64_t i = 0; i < w->job->spin * 1000000; i++)
		x = (x ^ x >> 29) * 0x9e3779b97f4a7c15ull;
	w->sink = x;
}

static void work(struct worker *w, uint64_t step)
{
	const struct job *job = w->job;

	switch (job->mode) {
	case MODE_STEPS:
		rewrite(w, step, job->rate * MIB / PAGE * job->step_ms / 1000 / job->threads);
		break;
	case MODE_WORK:
		rewrite(w, step, job->burst * MIB / PAGE / job->threads);
		compute(w);
		break;
	case MODE_OUTRUN:
		rewrite_all(w, step);
		break;
	}
}

static void sleep_until(int64_t at_us)
{
	struct timespec ts = {at_us / 1000000, at_us % 1000000 * 1000};

	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL))
		;
}

static void tell(struct job *job, uint64_t step, int64_t took_us)
{
	char line[128];

	snprintf(line, sizeof(line), "step %" PRIu64 " %" PRId64 " %lld %" PRId64 "\n", step,
		 took_us, (long long)atomic_exchange(&job->gap_us, 0),
		 now_us(CLOCK_PROCESS_CPUTIME_ID));
	say(line);
}

/* The worker with the first page keeps the time. */
static void *worker_main(void *arg)
{
	struct worker *w = arg;
	struct job *job = w->job;

	if (job->layout != LAYOUT_FORK) /* filled before the processes parted */
		rewrite_all(w, 0);
	if (pthread_barrier_wait(&job->barrier) == PTHREAD_BARRIER_SERIAL_THREAD)
		say("ready\n");
	for (uint64_t step = 1; !job->steps || step <= job->steps; step++) {
		int64_t start = now_us(CLOCK_MONOTONIC);

		work(w, step);
		pthread_barrier_wait(&job->barrier);
		if (job->mode == MODE_STEPS)
			sleep_until(start + (int64_t)job->step_ms * 1000);
		pthread_barrier_wait(&job->barrier);
		if (w->first == 0)
			tell(job, step, now_us(CLOCK_MONOTONIC) - start);
	}
	if (w->first != 0)
		return NULL; /* the last step is still to be told */
	exit(0);
}

static void *beat(void *arg)
{
	const struct timespec pause = {.tv_nsec = 1000000};
	struct job *job = arg;
	int64_t day = now_us(CLOCK_REALTIME), last = now_us(CLOCK_MONOTONIC);
	char line[64];

	for (;;) {
		int64_t now, gap;

		nanosleep(&pause, NULL);
		now = now_us(CLOCK_REALTIME);
		if (now - day > AWAKE_US) {
			snprintf(line, sizeof(line), "awake %" PRId64 "\n", now);
			say(line);
		}
		day = now;
		now = now_us(CLOCK_MONOTONIC);
		gap = now - last;
		last = now;
		if (gap > atomic_load(&job->gap_us))
			atomic_store(&job->gap_us, gap);
	}
	return NULL;
}

static void *wait_for_ever(void *arg)
{
	for (;;)
		pause();
	return arg;
}

/* ---- threads and processes ----------------------------------------------------------------- */

static void start_thread(void *(*body)(void *), void *arg)
{
	pthread_attr_t attributes;
	pthread_t thread;
	int code;

	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, 64 * 1024);
	code = pthread_create(&thread, &attributes, body, arg);
	if (code) {
		fprintf(stderr, "benchjob: a thread: %s\n", strerror(code));
		exit(1);
	}
}

static void start_threads(struct job *job)
{
	struct worker *workers = calloc(job->threads, sizeof(*workers));

	pthread_barrier_init(&job->barrier, NULL, (unsigned)job->threads);
	for (uint64_t i = 0; i < job->threads; i++) {
		uint64_t first = job->n_pages * i / job->threads;

		workers[i] = (struct worker){job, first,
					     job->n_pages * (i + 1) / job->threads - first, i};
	}
	for (uint64_t i = 0; i < job->idle; i++)
		start_thread(wait_for_ever, NULL);
	start_thread(beat, job);
	for (uint64_t i = 1; i < job->threads; i++)
		start_thread(worker_main, &workers[i]);
	worker_main(&workers[0]);
}

/* Children that rewrite one page a second of what they share with all others. */
static void start_processes(struct job *job)
{
	struct worker all = {job, 0, job->n_pages, 0};

	rewrite_all(&all, 0);
	for (uint64_t i = 1; i < job->processes; i++) {
		if (fork() != 0)
			continue;
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (uint64_t page = i;; page += job->processes) {
			write_page(page_at(job, page % job->n_pages), page, i);
			sleep(1);
		}
	}
}

/* ---- arguments ----------------------------------------------------------------------------- */

static bool set_word(struct job *job, const char *key, const char *value)
{
	static const char *const layouts[] = {"one", "small", "huge", "fork"};
	static const char *const modes[] = {"steps", "work", "outrun"};

	for (int i = 0; strcmp(key, "layout") == 0 && i < 4; i++)
		if (strcmp(value, layouts[i]) == 0) {
			job->layout = (enum layout)i;
			return true;
		}
	for (int i = 0; strcmp(key, "mode") == 0 && i < 3; i++)
		if (strcmp(value, modes[i]) == 0) {
			job->mode = (enum mode)i;
			return true;
		}
	return false;
}

static bool set_number(struct job *job, const char *key, const char *value)
{
	const struct {
		const char *key;
		uint64_t *place, least;
	} numbers[] = {
		{"size", &job->size, 1},	   {"rate", &job->rate, 0},
		{"step", &job->step_ms, 1},	   {"threads", &job->threads, 1},
		{"idle", &job->idle, 0},	   {"regions", &job->regions, 1},
		{"processes", &job->processes, 1}, {"burst", &job->burst, 0},
		{"spin", &job->spin, 0},	   {"steps", &job->steps, 0},
	};
	char *end;
	unsigned long n = strtoul(value, &end, 10);

	for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
		if (strcmp(key, numbers[i].key) == 0 && !*end && *value && n >= numbers[i].least) {
			*numbers[i].place = n;
			return true;
		}
	return false;
}

static void set(struct job *job, const char *argument)
{
	const char *value = strchr(argument, '=');
	char key[16] = "";

	if (value && (size_t)(value - argument) < sizeof(key))
		memcpy(key, argument, (size_t)(value - argument));
	if (!value || (!set_word(job, key, value + 1) && !set_number(job, key, value + 1))) {
		fprintf(stderr, "benchjob: '%s' is not understood\n", argument);
		exit(2);
	}
}

int main(int argc, char **argv)
{
	static struct job job = {
		.size = 2048,
		.rate = 320,
		.step_ms = 100,
		.threads = 2,
		.regions = 20000,
		.processes = 16,
		.burst = 512,
		.spin = 500,
	};

	for (int i = 1; i < argc; i++)
		set(&job, argv[i]);
	if (job.threads > THREADS_MOST)
		return 2;
	job.n_pages = job.size * MIB / PAGE;
	lay_out(&job);
	if (job.layout == LAYOUT_FORK)
		start_processes(&job);
	start_threads(&job);
	return 0;
}
