#include "watchdog/snapshotter.h"

#include <pthread.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "checkpointer/tracee/waits.h"
#include "store/base/cleanup.h"
#include "store/base/io.h"
#include "store/base/units.h"
#include "watchdog/snapshotter_work.h"

/* A recovered job runs for the watchdog as soon as its release is posted, so the next snapshot or
 * stop may be wanted before the release is done: commands and results wait in order. One of each
 * kind at most is under way. */
#define QUEUE 4

#define CARE_NS (NSEC_PER_SEC / 5)

/* Between a posted command and the end of its work the thread owns everything but the mailbox. */
struct snapshotter {
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t posted;
	bool quit, at_work;
	pid_t tid; /* from its first command on */
	uint64_t next_care;
	struct snap_command commands[QUEUE];
	size_t n_commands;
	struct snap_result results[QUEUE];
	size_t n_results;
	struct snap_work work;
};

static void publish_result(struct snapshotter *s, const struct snap_result *result)
{
	pthread_mutex_lock(&s->lock);
	s->results[s->n_results++] = *result;
	s->at_work = false;
	pthread_mutex_unlock(&s->lock);
	eventfd_write(s->work.wake, 1);
}

static bool next_command(struct snapshotter *s, struct snap_command *ret)
{
	bool more;

	pthread_mutex_lock(&s->lock);
	while (!s->n_commands && !s->quit)
		pthread_cond_wait(&s->posted, &s->lock);
	more = s->n_commands > 0;
	if (more) {
		*ret = s->commands[0];
		memmove(s->commands, s->commands + 1, --s->n_commands * sizeof(*ret));
		s->at_work = true;
		s->tid = gettid();
	}
	pthread_mutex_unlock(&s->lock);
	return more;
}

static void *run(void *arg)
{
	struct snapshotter *s = arg;
	struct snap_command command;

	while (next_command(s, &command)) {
		struct snap_result result = {.op = command.op};

		snap_work_do(&s->work, &command, &result);
		publish_result(s, &result);
		if (command.op == SNAP_TAKE && result.ok)
			snap_work_thin(&s->work, 0);
	}
	snap_work_end(&s->work);
	return NULL;
}

int snapshotter_start(struct snapshotter **ret, const struct snapshotter_config *config,
		      struct err *err)
{
	struct snapshotter *s = calloc(1, sizeof(*s));
	int code;

	if (!s)
		return err_sys(err, "cannot start the snapshot thread");
	s->work.config = *config;
	s->work.wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (s->work.wake < 0) {
		free(s);
		return err_sys(err, "cannot start the snapshot thread");
	}
	pthread_mutex_init(&s->lock, NULL);
	pthread_cond_init(&s->posted, NULL);
	code = pthread_create(&s->thread, NULL, run, s);
	if (code != 0) {
		close(s->work.wake);
		free(s);
		return err_code(err, code, "cannot start the snapshot thread");
	}
	*ret = s;
	return 0;
}

void snapshotter_attach(struct snapshotter *s, const struct capsule *capsule,
			const struct checkpoint_config *config, uint64_t parent)
{
	pthread_mutex_lock(&s->lock);
	s->work.next = (struct snap_target){capsule, *config, parent, true};
	pthread_mutex_unlock(&s->lock);
}

void snapshotter_post(struct snapshotter *s, const struct snap_command *command)
{
	pthread_mutex_lock(&s->lock);
	s->commands[s->n_commands++] = *command;
	atomic_store(&s->work.cancelled, false);
	pthread_cond_signal(&s->posted);
	pthread_mutex_unlock(&s->lock);
}

void snapshotter_cancel(struct snapshotter *s)
{
	atomic_store(&s->work.cancelled, true);
}

int snapshotter_fd(const struct snapshotter *s)
{
	return s->work.wake;
}

bool snapshotter_result(struct snapshotter *s, struct snap_result *ret)
{
	eventfd_t count;
	bool has;

	eventfd_read(s->work.wake, &count);
	pthread_mutex_lock(&s->lock);
	has = s->n_results > 0;
	if (has) {
		*ret = s->results[0];
		memmove(s->results, s->results + 1, --s->n_results * sizeof(*ret));
	}
	if (s->n_results)
		eventfd_write(s->work.wake, 1);
	pthread_mutex_unlock(&s->lock);
	return has;
}

uint64_t snapshotter_next_care(struct snapshotter *s)
{
	uint64_t next;

	pthread_mutex_lock(&s->lock);
	/* Also where it has not begun: whoever asks sleeps that long. */
	next = s->at_work || s->n_commands ? s->next_care : UINT64_MAX;
	pthread_mutex_unlock(&s->lock);
	return next;
}

void snapshotter_care(struct snapshotter *s, uint64_t now)
{
	pthread_mutex_lock(&s->lock);
	if (now >= s->next_care) {
		if (s->at_work)
			tracee_end_vain_wait(s->tid);
		s->next_care = now + CARE_NS;
	}
	pthread_mutex_unlock(&s->lock);
}

static bool join(struct snapshotter *s, int patience_ms)
{
	uint64_t start = clock_ns(CLOCK_MONOTONIC), now = start;

	while (patience_ms < 0 || now - start < (uint64_t)patience_ms * 1000000) {
		uint64_t end = clock_ns(CLOCK_REALTIME) + CARE_NS;
		const struct timespec until = {(time_t)(end / NSEC_PER_SEC), (long)(end % NSEC_PER_SEC)};

		if (pthread_timedjoin_np(s->thread, NULL, &until) == 0)
			return true;
		now = clock_ns(CLOCK_MONOTONIC);
		snapshotter_care(s, now);
	}
	return false;
}

bool snapshotter_finish(struct snapshotter *s, int patience_ms)
{
	if (!s)
		return true;
	pthread_mutex_lock(&s->lock);
	s->quit = true;
	pthread_cond_signal(&s->posted);
	pthread_mutex_unlock(&s->lock);
	if (!join(s, patience_ms))
		return false;
	close(s->work.wake);
	pthread_mutex_destroy(&s->lock);
	pthread_cond_destroy(&s->posted);
	free(s);
	return true;
}
