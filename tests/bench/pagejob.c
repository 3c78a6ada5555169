/*
 * pagejob.c: the reference job that checkpointers are measured with.
 *
 * Usage: pagejob [SIZE_MIB [REWRITE_MIB [STEP_MS [STEPS [THREADS]]]]]   (2048 32 100 600 2)
 *
 * Fills SIZE_MIB with half-compressible pages. In each step of STEP_MS the threads together rewrite
 * REWRITE_MIB at pseudo-random pages. The digest printed each step is a sum over all pages, kept up
 * to date by taking off each page's old part (computed from memory) and adding the new one; at the
 * end it is computed anew from all pages, and a difference is an error. The output depends on the
 * arguments alone. The job's own longest step goes to stderr.
 */
#include <inttypes.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

#include "halfpage.h"

struct job {
	uint64_t (*pages)[PAGE_WORDS];
	uint64_t n_pages;
	uint64_t pages_a_step;
	int64_t step_ns;
	long steps;
	long threads;
	pthread_barrier_t barrier;
};

struct worker {
	struct job *job;
	pthread_t thread;
	uint64_t first, n;  /* its pages */
	uint64_t digest;    /* of its pages */
	int64_t longest_ns; /* worker 0: longest step */
};

static int64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000ll + ts.tv_nsec;
}

static void sleep_until(int64_t at_ns)
{
	struct timespec ts = {at_ns / 1000000000, at_ns % 1000000000};

	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL))
		;
}

/* A page's part of the digest: depends on its place and on every word of it. */
static uint64_t page_part(const uint64_t *page, uint64_t index)
{
	uint64_t sum[4] = {index, 1, 2, 3};

	for (int i = 0; i < PAGE_WORDS; i += 4)
		for (int j = 0; j < 4; j++)
			sum[j] = (sum[j] ^ page[i + j]) * 0x9e3779b97f4a7c15ull;
	return mix(mix(mix(mix(sum[0]) + sum[1]) + sum[2]) + sum[3]);
}

static void rewrite(struct worker *w, uint64_t step, uint64_t n)
{
	for (uint64_t i = 0; i < n; i++) {
		uint64_t index = w->first + mix(step << 32 | i) % w->n;
		uint64_t *page = w->job->pages[index];

		w->digest -= page_part(page, index);
		write_page(page, index, step);
		w->digest += page_part(page, index);
	}
}

static void fill(struct worker *w)
{
	for (uint64_t index = w->first; index < w->first + w->n; index++) {
		write_page(w->job->pages[index], index, 0);
		w->digest += page_part(w->job->pages[index], index);
	}
}

static bool digest_holds(const struct worker *w)
{
	uint64_t digest = 0;

	for (uint64_t index = w->first; index < w->first + w->n; index++)
		digest += page_part(w->job->pages[index], index);
	return digest == w->digest;
}

static void print_step(const struct worker *all, long step)
{
	uint64_t digest = 0;

	for (long i = 0; i < all->job->threads; i++)
		digest += all[i].digest;
	printf("step %ld %016" PRIx64 "\n", step, digest);
}

/* Worker 0 is first in the array of all of them, and keeps the time. */
static void *worker_main(void *arg)
{
	struct worker *w = arg;
	struct job *job = w->job;
	bool first = w->first == 0;

	fill(w);
	pthread_barrier_wait(&job->barrier);
	for (long step = 1; step <= job->steps; step++) {
		int64_t start = now_ns();

		rewrite(w, (uint64_t)step, job->pages_a_step / (uint64_t)job->threads);
		pthread_barrier_wait(&job->barrier);
		if (first)
			print_step(w, step);
		sleep_until(start + job->step_ns);
		pthread_barrier_wait(&job->barrier);
		if (now_ns() - start > w->longest_ns)
			w->longest_ns = now_ns() - start;
	}
	return (void *)(uintptr_t)digest_holds(w);
}

static long argument(int argc, char **argv, int n, long standard)
{
	char *end;
	long value = standard;

	if (argc > n) {
		value = strtol(argv[n], &end, 10);
		if (*end || value < 0) {
			fprintf(stderr, "pagejob: %s is not a number\n", argv[n]);
			exit(2);
		}
	}
	return value;
}

static void start(struct job *job, struct worker *workers)
{
	pthread_barrier_init(&job->barrier, NULL, (unsigned)job->threads);
	for (long i = 0; i < job->threads; i++) {
		uint64_t first = job->n_pages * (uint64_t)i / (uint64_t)job->threads;
		uint64_t end = job->n_pages * (uint64_t)(i + 1) / (uint64_t)job->threads;

		workers[i] = (struct worker){.job = job, .first = first, .n = end - first};
		if (pthread_create(&workers[i].thread, NULL, worker_main, &workers[i]))
			abort();
	}
}

int main(int argc, char **argv)
{
	struct job job = {
		.n_pages = (uint64_t)argument(argc, argv, 1, 2048) << 8,
		.pages_a_step = (uint64_t)argument(argc, argv, 2, 32) << 8,
		.step_ns = argument(argc, argv, 3, 100) * 1000000ll,
		.steps = argument(argc, argv, 4, 600),
		.threads = argument(argc, argv, 5, 2),
	};
	bool holds = true;
	void *result;

	if (job.n_pages == 0 || job.threads == 0 || (uint64_t)job.threads > job.n_pages)
		return 2;
	setvbuf(stdout, NULL, _IOLBF, 0);
	job.pages = mmap(NULL, job.n_pages * sizeof(*job.pages), PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct worker *workers = calloc((size_t)job.threads, sizeof(*workers));
	if (job.pages == MAP_FAILED || !workers)
		return 1;
	start(&job, workers);
	for (long i = 0; i < job.threads; i++) {
		pthread_join(workers[i].thread, &result);
		holds = holds && result;
	}
	printf("end %s\n", holds ? "digest holds" : "DIGEST DIFFERS");
	fprintf(stderr, "longest step %.1f ms\n", (double)workers[0].longest_ns / 1e6);
	free(workers);
	return holds ? 0 : 1;
}
