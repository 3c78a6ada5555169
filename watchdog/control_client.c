#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "store/base/cleanup.h"
#include "store/base/io.h"
#include "store/base/units.h"
#include "store/replica/ssh_connect.h"
#include "watchdog/control.h"
#include "watchdog/watchdog.h"

/* A watchdog holds the job's lock before it listens: it may be launching, or rebuilding a large
 * job. */
#define START_PATIENCE_NS (60 * NSEC_PER_SEC)
#define START_PAUSE_NS	  20000000

static int try_connect(struct store *store, const char *job, bool *ret_starting, struct err *err)
{
	char path[PATH_MAX];
	struct job_info info;
	bool runs;
	int fd = -1;

	*ret_starting = false;
	if (store_job_get(store, job, &info, err) < 0)
		return -1;
	runs = store_job_is_locked(store, &info);
	if (runs) {
		store_job_socket_path(store, &info, path, sizeof(path));
		fd = control_socket(path, false, err);
	}
	job_info_clear(&info);
	if (!runs || (fd < 0 && (err->sys_errno == ENOENT || err->sys_errno == ECONNREFUSED))) {
		*ret_starting = runs;
		return err_set(err, ERR_NOT_FOUND, "job '%s' does not run", job);
	}
	return fd;
}

static int connect_to(struct store *store, const char *job, struct err *err)
{
	const struct timespec pause = {.tv_nsec = START_PAUSE_NS};
	uint64_t end = clock_ns(CLOCK_MONOTONIC) + START_PATIENCE_NS;
	bool starting;
	int fd;

	while ((fd = try_connect(store, job, &starting, err)) < 0 && starting &&
	       clock_ns(CLOCK_MONOTONIC) < end)
		nanosleep(&pause, NULL);
	return fd;
}

static int read_line(int fd, char *line, size_t room, struct err *err)
{
	size_t used = 0;

	while (used + 1 < room) {
		ssize_t n = recv(fd, line + used, room - 1 - used, 0);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno != ECONNRESET)
			return err_sys(err, "cannot read the watchdog's answer");
		/* Reset: it ended with our request unread. */
		if (n <= 0)
			return err_set(err, ERR_GONE, "the job's watchdog ended without an answer");
		used += (size_t)n;
		line[used] = '\0';
		if (line[used - 1] == '\n')
			return 0;
	}
	return err_set(err, ERR_CORRUPT, "the watchdog's answer is too long");
}

static int failed(json_t *reply, struct err *err)
{
	json_int_t kind = json_integer_value(json_object_get(reply, "kind"));
	const char *why = json_string_value(json_object_get(reply, "error"));

	if (why && kind > ERR_NONE && kind <= ERR_UNREACHABLE)
		return err_set(err, (enum err_kind)kind, "%s", why);
	return err_set(err, ERR_CORRUPT, "the watchdog's answer is not understood");
}

static int understand(const char *line, struct snapshot_info *ret, struct err *err)
{
	json_t *reply = json_loads(line, 0, NULL);
	int result;

	if (json_is_true(json_object_get(reply, "ok")))
		result = control_unpack_snapshot(json_object_get(reply, "snapshot"), ret, err);
	else
		result = failed(reply, err);
	json_decref(reply);
	return result;
}

static int exchange(int fd, const char *job, const char *request, char *line, size_t room,
		    struct err *err)
{
	if (send(fd, request, strlen(request), MSG_NOSIGNAL) != (ssize_t)strlen(request))
		return err_sys(err, "cannot ask the watchdog of job '%s'", job);
	return read_line(fd, line, room, err);
}

static int ask(struct store *store, const char *job, const char *request, struct snapshot_info *ret,
	       struct err *err)
{
	cleanup_fd int fd = connect_to(store, job, err);
	char line[4096];

	if (fd < 0 || exchange(fd, job, request, line, sizeof(line), err) < 0)
		return -1;
	return understand(line, ret, err);
}

/* As a JSON array. What is not UTF-8 is left out: the watchdog's own will do. */
static json_t *pack_environment(struct err *err)
{
	cleanup_free char **environment = NULL;
	json_t *array;

	if (ssh_environment_get(&environment, err) < 0)
		return NULL;
	array = json_array();
	for (size_t i = 0; environment[i]; i++)
		json_array_append_new(array, json_string(environment[i]));
	return array;
}

/* Steals the request. */
static int ask_for(struct store *store, const char *job, json_t *request, struct snapshot_info *ret, struct err *err)
{
	json_t *environment = pack_environment(err);
	cleanup_free char *text = NULL, *line = NULL;

	if (environment)
		json_object_set_new(request, "environment", environment);
	text = environment ? json_dumps(request, JSON_COMPACT) : NULL;
	json_decref(request);
	if (!environment)
		return -1;
	if (!text || asprintf(&line, "%s\n", text) < 0)
		return err_sys(err, "cannot ask the watchdog of job '%s'", job);
	return ask(store, job, line, ret, err);
}

int control_snapshot(struct store *store, const char *job, struct snapshot_info *ret,
		     struct err *err)
{
	return ask_for(store, job, json_pack("{s:s}", "cmd", "snapshot"), ret, err);
}

int control_snapshot_now(struct store *store, const char *job, struct snapshot_info *ret,
			 struct err *err)
{
	return ask_for(store, job, json_pack("{s:s, s:b}", "cmd", "snapshot", "urgent", 1), ret, err);
}

int control_move(struct store *store, const char *job, const char *to, struct snapshot_info *ret,
		 struct err *err)
{
	json_t *request = json_pack("{s:s, s:s}", "cmd", "move", "to", to);

	if (!request)
		return err_set(err, ERR_INVALID, "destination '%.100s' is not text", to);
	return ask_for(store, job, request, ret, err);
}

int control_stop(struct store *store, const char *job, struct snapshot_info *ret, struct err *err)
{
	return ask_for(store, job, json_pack("{s:s}", "cmd", "stop"), ret, err);
}

int control_status(struct store *store, const char *job, struct job_status *ret, struct err *err)
{
	const struct timeval patience = {.tv_sec = 2};
	cleanup_fd int fd = -1;
	json_t *reply;
	char line[4096];
	bool starting;
	int result;

	fd = try_connect(store, job, &starting, err);
	if (fd < 0)
		return -1;
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
	if (exchange(fd, job, "{\"cmd\": \"status\"}\n", line, sizeof(line), err) < 0)
		return -1;
	reply = json_loads(line, 0, NULL);
	if (json_is_true(json_object_get(reply, "ok")))
		result = control_unpack_status(json_object_get(reply, "status"), ret, err);
	else
		result = failed(reply, err);
	json_decref(reply);
	return result;
}
