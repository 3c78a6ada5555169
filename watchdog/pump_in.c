#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "store/base/log.h"
#include "watchdog/pump_flows.h"

bool inflow_has_data(const struct pump *pump)
{
	return pump->in.open && pump->in.job_fd >= 0 &&
	       pump->in.written < stdinlog_size(pump->input);
}

bool inflow_wants_more(const struct pump *pump)
{
	return pump->in.open && pump->in.outer >= 0 && pump->in.job_fd >= 0 && !pump->in.held &&
	       stdinlog_size(pump->input) - pump->in.written < PUMP_BACKLOG;
}

static void input_ended(struct pump *pump)
{
	struct err err;

	if (pump->in.skip > 0)
		log_warn("standard input is shorter than what the job has already read of it");
	if (stdinlog_set_end(pump->input, &err) < 0)
		log_warn("the end of standard input is not kept: %s", err.msg);
	if (pump->in.outer > 2)
		close(pump->in.outer);
	pump->in.outer = -1;
}

/* What cannot be kept is not passed on either: a recovered job could not read it again. It waits
 * here, and the rest in front of us, so nothing is lost. */
static void keep_input(struct pump *pump, const char *data, size_t len)
{
	struct err err;

	if (stdinlog_append(pump->input, data, len, &err) == 0)
		return;
	log_warn("the job waits for its input, which cannot be kept: %s", err.msg);
	pump->in.held = malloc(len);
	if (!pump->in.held) {
		log_error("out of memory: the job's input ends here");
		inflow_refused(pump);
		return;
	}
	memcpy(pump->in.held, data, len);
	pump->in.held_len = len;
}

void inflow_retry(struct pump *pump)
{
	struct inflow *in = &pump->in;
	struct err err;

	if (!in->held || stdinlog_append(pump->input, in->held, in->held_len, &err) < 0)
		return;
	free(in->held);
	in->held = NULL;
}

void inflow_read(struct pump *pump)
{
	struct inflow *in = &pump->in;
	char buf[65536];
	uint64_t skip;
	ssize_t n;

	if (!inflow_wants_more(pump))
		return;
	n = read(in->outer, buf, sizeof(buf));
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		input_ended(pump);
		return;
	}
	skip = in->skip < (uint64_t)n ? in->skip : (uint64_t)n;
	in->skip -= skip;
	if ((uint64_t)n > skip)
		keep_input(pump, buf + skip, (size_t)n - skip);
}

void inflow_refused(struct pump *pump)
{
	struct inflow *in = &pump->in;

	if (in->job_fd >= 0)
		close(in->job_fd);
	in->job_fd = -1;
	if (in->outer >= 0)
		inlet_close(in->outer, STDIN_FILENO);
	in->outer = -1;
}

static bool all_passed_on(const struct pump *pump)
{
	return pump->in.open && pump->in.outer < 0 &&
	       pump->in.written >= stdinlog_size(pump->input);
}

/* The job sees the end of file; we still see how much of the pipe it has read. */
static void close_job_end(struct inflow *in)
{
	char path[32];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", in->job_fd);
	pump_close(&in->peek);
	in->peek = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	pump_close(&in->job_fd);
}

void inflow_write(struct pump *pump)
{
	struct inflow *in = &pump->in;
	char buf[65536];
	ssize_t n, taken;

	while (inflow_has_data(pump)) {
		n = stdinlog_read(pump->input, in->written, buf, sizeof(buf));
		if (n <= 0) {
			log_error("the job's kept input cannot be read: %s", strerror(errno));
			inflow_refused(pump);
			return;
		}
		taken = write(in->job_fd, buf, (size_t)n);
		if (taken < 0 && errno == EPIPE)
			inflow_refused(pump);
		if (taken < 0)
			return;
		in->written += (uint64_t)taken;
	}
	if (in->job_fd >= 0 && all_passed_on(pump))
		close_job_end(in);
}

bool keyflow_wants_more(const struct keyflow *k)
{
	return k->outer >= 0 && k->master >= 0 && k->wanted && k->used == k->sent;
}

void keyflow_read(struct keyflow *k)
{
	ssize_t n;

	if (!keyflow_wants_more(k))
		return;
	n = read(k->outer, k->pending, sizeof(k->pending));
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	k->sent = 0;
	k->used = n > 0 ? (size_t)n : 0;
	if (n <= 0)
		k->wanted = false; /* hung up, or in the background after all */
}

void keyflow_write(struct keyflow *k)
{
	ssize_t n = k->master < 0 ? -1 : write(k->master, k->pending + k->sent, k->used - k->sent);

	if (n > 0)
		k->sent += (size_t)n;
	if (k->sent == k->used || (n < 0 && errno != EAGAIN && errno != EINTR))
		k->sent = k->used = 0;
}
