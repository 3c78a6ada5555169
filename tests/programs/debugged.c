/*
 * debugged.c: threads deep in calls with known arguments and variables, for debuggers to look at. The
 * value of every variable follows from its thread's number.
 */
#include "target.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define N_THREADS 3
#define DEPTH	  5

struct task {
	int number;
	double weight;
	const char *name;
	long *table;
};

long squares[1024];
static __thread int own_number;
static struct target target;
static volatile int go_on = 1;

static void descend(int level, struct task *task)
{
	char local[64];

	own_number = task->number;
	snprintf(local, sizeof(local), "level %d of %s", level, task->name);
	if (level > 0) {
		descend(level - 1, task);
	} else if (task->number == 0) {
		target_ready(&target);
		target_wait(&target);
		go_on = 0;
	} else {
		while (go_on)
			usleep(1000);
	}
	/* Used after the call: it is no tail call, and alive in every frame. */
	CHECK(strstr(local, task->name) && task->table[level] == level * level);
}

static void *work(void *arg)
{
	descend(DEPTH, arg);
	return NULL;
}

int main(int argc, char **argv)
{
	static struct task tasks[N_THREADS + 1] = {
		{0, 0.5, "main", squares}, {1, 1.5, "one", squares},
		{2, 2.5, "two", squares},  {3, 3.5, "three", squares}};
	pthread_t threads[N_THREADS];
	char *untouched = calloc(1, 64 << 20);

	target_start(&target, argc, argv);
	for (long i = 0; i < 1024; i++)
		squares[i] = i * i;
	untouched[32 << 20] = 'x';
	for (int i = 0; i < N_THREADS; i++)
		CHECK(pthread_create(&threads[i], NULL, work, &tasks[i + 1]) == 0);
	work(&tasks[0]);
	for (int i = 0; i < N_THREADS; i++)
		CHECK(pthread_join(threads[i], NULL) == 0);
	CHECK(untouched[32 << 20] == 'x' && untouched[0] == 0);
	return target_pass(&target);
}
