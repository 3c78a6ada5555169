#include "watchdog/pump.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "store/base/cleanup.h"
#include "watchdog/pump_flows.h"
#include "watchdog/pty.h"

void pump_init(struct pump *pump)
{
	size_t i;

	*pump = (struct pump){.in = {.outer = -1, .job_fd = -1, .peek = -1},
			      .keys = {.outer = -1, .master = -1}};
	pthread_mutex_init(&pump->lock, NULL);
	for (i = 0; i < 3; i++) {
		pump->out[i].job_fd = -1;
		pump->out[i].outlet.fd = -1;
	}
	pump->wrote_line_start = true;
}

void pump_clear(struct pump *pump)
{
	size_t i;

	for (i = 0; i < 3; i++) {
		pump_close(&pump->out[i].job_fd);
		outlet_close(&pump->out[i].outlet);
		free(pump->out[i].pending);
	}
	pump_close(&pump->in.job_fd);
	pump_close(&pump->in.peek);
	free(pump->in.held);
	if (pump->in.outer > 2)
		close(pump->in.outer);
	if (pump->keys.outer > 2)
		close(pump->keys.outer);
	pthread_mutex_destroy(&pump->lock);
	pump_init(pump);
}

void pump_close(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

static void want(struct pollfd *fds, size_t *n, int fd, short events)
{
	fds[*n] = (struct pollfd){.fd = fd, .events = events};
	(*n)++;
}

size_t pump_poll(struct pump *pump, struct pollfd *fds)
{
	size_t n = 0, i;

	pthread_mutex_lock(&pump->lock);
	for (i = 0; i < 3; i++) {
		struct outflow *f = &pump->out[i];

		if (outflow_wants_more(f))
			want(fds, &n, f->job_fd, POLLIN);
		if (outflow_has_pending(f))
			want(fds, &n, f->outlet.fd, POLLOUT);
	}
	/* Without events too: POLLERR says that the job has closed its end. */
	if (pump->in.job_fd >= 0)
		want(fds, &n, pump->in.job_fd, inflow_has_data(pump) ? POLLOUT : 0);
	if (inflow_wants_more(pump))
		want(fds, &n, pump->in.outer, POLLIN);
	if (keyflow_wants_more(&pump->keys))
		want(fds, &n, pump->keys.outer, POLLIN);
	if (pump->keys.used > pump->keys.sent)
		want(fds, &n, pump->keys.master, POLLOUT);
	pthread_mutex_unlock(&pump->lock);
	return n;
}

/* What poll said of a descriptor; two entries may name the same one (the master). */
static short said(const struct pollfd *fds, size_t n, int fd)
{
	short events = 0;
	size_t i;

	for (i = 0; fd >= 0 && i < n; i++)
		if (fds[i].fd == fd)
			events |= fds[i].revents;
	return events;
}

void pump_move(struct pump *pump, const struct pollfd *fds, size_t n)
{
	size_t i;

	pthread_mutex_lock(&pump->lock);
	for (i = 0; i < 3; i++) {
		struct outflow *f = &pump->out[i];

		if (outflow_wants_more(f) && said(fds, n, f->job_fd) & (POLLIN | POLLHUP | POLLERR))
			outflow_read(pump, f);
		/* At once, without a poll between: most of the time the outlet takes it. */
		if (outflow_has_pending(f) &&
		    (f->outlet.kind != OUTLET_SHARED || said(fds, n, f->outlet.fd)))
			outflow_write(pump, f);
	}
	if (said(fds, n, pump->in.job_fd) & (POLLERR | POLLNVAL))
		inflow_refused(pump);
	if (said(fds, n, pump->in.outer) & (POLLIN | POLLHUP | POLLERR))
		inflow_read(pump);
	inflow_write(pump);
	if (said(fds, n, pump->keys.outer) & (POLLIN | POLLHUP | POLLERR))
		keyflow_read(&pump->keys);
	if (pump->keys.used > pump->keys.sent)
		keyflow_write(&pump->keys);
	pthread_mutex_unlock(&pump->lock);
}

static void drain_locked(struct pump *pump)
{
	size_t i;

	for (i = 0; i < 3; i++)
		while (pump->out[i].job_fd >= 0 && outflow_read(pump, &pump->out[i]))
			;
}

void pump_drain(struct pump *pump)
{
	pthread_mutex_lock(&pump->lock);
	drain_locked(pump);
	pthread_mutex_unlock(&pump->lock);
}

bool pump_has_pending(struct pump *pump)
{
	bool pending = false;
	size_t i;

	pthread_mutex_lock(&pump->lock);
	for (i = 0; i < 3; i++)
		pending |= outflow_has_pending(&pump->out[i]);
	pthread_mutex_unlock(&pump->lock);
	return pending;
}

bool pump_hang_up(struct pump *pump, uint64_t now)
{
	bool later = false;
	size_t i;

	pthread_mutex_lock(&pump->lock);
	for (i = 0; i < 3; i++)
		later |= outflow_hang_up(&pump->out[i], now);
	pthread_mutex_unlock(&pump->lock);
	return later;
}

void pump_detach(struct pump *pump)
{
	size_t i;

	pthread_mutex_lock(&pump->lock);
	drain_locked(pump);
	for (i = 0; i < 3; i++) {
		pump_close(&pump->out[i].job_fd);
		pump->out[i].ended = false;
	}
	pump_close(&pump->in.job_fd);
	pump_close(&pump->in.peek);
	pump->in.open = false;
	pump->keys.master = -1;
	pump->keys.sent = pump->keys.used = 0;
	pthread_mutex_unlock(&pump->lock);
}

bool pump_reader_gone(const struct pump *pump)
{
	return pump->out[0].reader_gone || pump->out[1].reader_gone;
}

bool pump_stalled(const struct pump *pump)
{
	return pump->in.held;
}

void pump_retry(struct pump *pump)
{
	pthread_mutex_lock(&pump->lock);
	inflow_retry(pump);
	pthread_mutex_unlock(&pump->lock);
}

static int freeze_terminal(const struct pump *pump, const struct capsule *capsule,
			   Snap__Capsule *model, struct err *err)
{
	int master = pump->out[JOBLOG_TERMINAL - 1].job_fd;

	if (master < 0)
		return 0;
	model->foreground = capsule_translate_pgrp(capsule, pty_foreground(master));
	return pty_save(master, model, err);
}

int pump_freeze(struct pump *pump, const struct capsule *capsule, Snap__Capsule *model,
		struct err *err)
{
	int waiting = 0, pipe_fd, result;

	pthread_mutex_lock(&pump->lock);
	drain_locked(pump);
	pipe_fd = pump->in.job_fd >= 0 ? pump->in.job_fd : pump->in.peek;
	model->log_bytes = joblog_bytes(pump->log);
	if (pipe_fd >= 0 && ioctl(pipe_fd, FIONREAD, &waiting) < 0)
		waiting = 0;
	model->stdin_bytes = pump->in.written - (uint64_t)waiting;
	result = freeze_terminal(pump, capsule, model, err);
	pthread_mutex_unlock(&pump->lock);
	return result;
}

int pump_sync(struct pump *pump, struct err *err)
{
	int result;

	pthread_mutex_lock(&pump->lock);
	result = joblog_flush(pump->log, err);
	pthread_mutex_unlock(&pump->lock);
	if (result < 0 || joblog_sync(pump->log, err) < 0)
		return -1;
	return pump->input ? stdinlog_sync(pump->input, err) : 0;
}
