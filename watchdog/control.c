#include "watchdog/control.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>

#include "store/base/cleanup.h"
#include "store/base/io.h"
#include "store/base/log.h"
#include "store/replica/ssh_connect.h"

enum client_state { CLIENT_FREE, CLIENT_READING, CLIENT_SNAPSHOT, CLIENT_STOP, CLIENT_MOVE, CLIENT_STATUS };

struct client {
	enum client_state state;
	bool armed; /* the snapshot under way answers it */
	int fd;
	char *line; /* malloc'ed, `room` bytes */
	size_t used, room;
};

struct control {
	int fd;
	char *path;
	struct client clients[CONTROL_MAX_CLIENTS];
};

int control_open(struct control **ret, const char *path, struct err *err)
{
	struct control *control = calloc(1, sizeof(*control));

	if (!control || !(control->path = strdup(path))) {
		free(control);
		return err_sys(err, "cannot make the control socket");
	}
	control->fd = control_socket(path, true, err);
	if (control->fd < 0) {
		free(control->path);
		free(control);
		return -1;
	}
	*ret = control;
	return 0;
}

static void drop(struct client *client)
{
	close(client->fd);
	free(client->line);
	*client = (struct client){.fd = -1};
}

/* An answer is a few hundred bytes: it fits the socket's buffer, or the client is broken. */
static void answer(struct client *client, json_t *reply)
{
	char *text = reply ? json_dumps(reply, JSON_COMPACT) : NULL;

	json_decref(reply);
	if (text) {
		send(client->fd, text, strlen(text), MSG_NOSIGNAL | MSG_DONTWAIT);
		send(client->fd, "\n", 1, MSG_NOSIGNAL | MSG_DONTWAIT);
	}
	free(text);
	drop(client);
}

static void answer_error(struct client *client, const struct err *err)
{
	/* s% would be needed for text that is not UTF-8: then the kind alone goes. */
	json_t *reply =
		json_pack("{s:b, s:i, s:s}", "ok", 0, "kind", (int)err->kind, "error", err->msg);

	answer(client, reply ? reply
			     : json_pack("{s:b, s:i, s:s}", "ok", 0, "kind", (int)err->kind,
					 "error", "see the watchdog's messages"));
}

static void answer_info(struct client *client, const struct snapshot_info *info)
{
	answer(client, json_pack("{s:b, s:o}", "ok", 1, "snapshot", control_pack_snapshot(info)));
}

void control_unlink(struct control *control)
{
	if (control && control->path) {
		unlink(control->path);
		free(control->path);
		control->path = NULL;
	}
}

void control_close(struct control *control)
{
	struct err err;

	if (!control)
		return;
	err_set(&err, ERR_GONE, "the job's watchdog has ended");
	control_answer_end(control, NULL, &err);
	control_unlink(control);
	close(control->fd);
	free(control);
}

size_t control_poll(const struct control *control, struct pollfd *fds)
{
	size_t n = 0, i;

	fds[n++] = (struct pollfd){.fd = control->fd, .events = POLLIN};
	for (i = 0; i < CONTROL_MAX_CLIENTS; i++)
		if (control->clients[i].state == CLIENT_READING)
			fds[n++] = (struct pollfd){.fd = control->clients[i].fd, .events = POLLIN};
	return n;
}

static bool may_ask(int fd)
{
	struct ucred peer;
	socklen_t len = sizeof(peer);

	return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0 &&
	       (peer.uid == geteuid() || peer.uid == 0);
}

static void accept_one(struct control *control)
{
	int fd = accept4(control->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	size_t i;

	if (fd < 0)
		return;
	for (i = 0; i < CONTROL_MAX_CLIENTS && may_ask(fd); i++) {
		if (control->clients[i].state != CLIENT_FREE)
			continue;
		control->clients[i] = (struct client){.state = CLIENT_READING, .fd = fd};
		return;
	}
	close(fd);
}

static int understand_move(json_t *request, struct control_wishes *wishes, struct err *err)
{
	const char *to = json_string_value(json_object_get(request, "to"));
	char *copy;

	if (!to || !*to || strlen(to) >= JOB_DESTINATION)
		return err_set(err, ERR_INVALID, "the destination is missing, or too long");
	copy = strdup(to);
	if (!copy)
		return err_sys(err, "cannot move the job");
	free(wishes->move_to);
	wishes->move_to = copy;
	return 0;
}

/* Whoever asked last knows best. */
static int understand_environment(json_t *request, struct control_wishes *wishes, struct err *err)
{
	json_t *told = json_object_get(request, "environment");
	cleanup_free const char **list = calloc(json_array_size(told) + 1, sizeof(*list));
	char **environment;
	size_t n = 0;

	if (!list)
		return err_sys(err, "the request");
	for (size_t i = 0; i < json_array_size(told); i++) {
		list[n] = json_string_value(json_array_get(told, i));
		n += list[n] != NULL;
	}
	if (n == 0)
		return 0;
	if (strings_copy(list, n, &environment, err) < 0)
		return -1;
	free(wishes->environment);
	wishes->environment = environment;
	return 0;
}

static int understand(struct client *client, json_t *request, struct control_wishes *wishes, struct err *err)
{
	const char *cmd = json_string_value(json_object_get(request, "cmd"));

	if (understand_environment(request, wishes, err) < 0)
		return -1;
	if (cmd && strcmp(cmd, "snapshot") == 0) {
		client->state = CLIENT_SNAPSHOT;
		wishes->snapshot = true;
		wishes->urgent |= json_is_true(json_object_get(request, "urgent"));
	} else if (cmd && strcmp(cmd, "stop") == 0) {
		client->state = CLIENT_STOP;
		wishes->stop = true;
	} else if (cmd && strcmp(cmd, "move") == 0) {
		if (understand_move(request, wishes, err) < 0)
			return -1;
		client->state = CLIENT_MOVE;
	} else if (cmd && strcmp(cmd, "status") == 0) {
		client->state = CLIENT_STATUS;
		wishes->status = true;
	} else {
		return err_set(err, ERR_INVALID, "the watchdog does not know this request");
	}
	return 0;
}

static void take_request(struct client *client, struct control_wishes *wishes)
{
	json_t *request = json_loads(client->line, 0, NULL);
	struct err err;

	if (understand(client, request, wishes, &err) < 0)
		answer_error(client, &err);
	json_decref(request);
}

/* False: there is none for more. */
static bool make_room(struct client *client)
{
	size_t room = client->room ? 2 * client->room : 512;
	char *more;

	if (client->used + 1 < client->room)
		return true;
	more = room <= CONTROL_LINE_MOST ? realloc(client->line, room) : NULL;
	if (!more)
		return false;
	client->line = more;
	client->room = room;
	return true;
}

static void refuse_long(struct client *client)
{
	struct err err;

	err_set(&err, ERR_INVALID, "the request is too long");
	answer_error(client, &err);
}

static void read_client(struct client *client, struct control_wishes *wishes)
{
	ssize_t n;

	if (!make_room(client)) {
		refuse_long(client);
		return;
	}
	n = recv(client->fd, client->line + client->used, client->room - 1 - client->used, 0);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		drop(client);
		return;
	}
	client->used += (size_t)n;
	client->line[client->used] = '\0';
	if (memchr(client->line, '\n', client->used))
		take_request(client, wishes);
}

static bool is_ready(const struct pollfd *fds, size_t n, int fd)
{
	size_t i;

	for (i = 0; i < n; i++)
		if (fds[i].fd == fd && fds[i].revents)
			return true;
	return false;
}

struct control_wishes control_read(struct control *control, const struct pollfd *fds, size_t n)
{
	struct control_wishes wishes = {0};
	size_t i;

	for (i = 0; i < CONTROL_MAX_CLIENTS; i++)
		if (control->clients[i].state == CLIENT_READING &&
		    is_ready(fds, n, control->clients[i].fd))
			read_client(&control->clients[i], &wishes);
	if (is_ready(fds, n, control->fd))
		accept_one(control);
	return wishes;
}

void control_arm(struct control *control)
{
	size_t i;

	for (i = 0; i < CONTROL_MAX_CLIENTS; i++)
		if (control->clients[i].state == CLIENT_SNAPSHOT)
			control->clients[i].armed = true;
}

static void answer_one(struct client *client, const struct snapshot_info *info,
		       const struct err *err)
{
	if (info)
		answer_info(client, info);
	else
		answer_error(client, err);
}

void control_answer_snapshot(struct control *control, const struct snapshot_info *info,
			     const struct err *err)
{
	size_t i;

	for (i = 0; i < CONTROL_MAX_CLIENTS; i++)
		if (control->clients[i].armed)
			answer_one(&control->clients[i], info, err);
}

static bool waits_for_end(const struct client *client)
{
	return client->state == CLIENT_STOP || client->state == CLIENT_MOVE;
}

void control_answer_stop_failed(struct control *control, const struct err *err)
{
	size_t i;

	for (i = 0; i < CONTROL_MAX_CLIENTS; i++)
		if (waits_for_end(&control->clients[i]))
			answer_error(&control->clients[i], err);
}

void control_refuse_move(struct control *control, const struct err *err)
{
	size_t i;

	for (i = 0; i < CONTROL_MAX_CLIENTS; i++)
		if (control->clients[i].state == CLIENT_MOVE)
			answer_error(&control->clients[i], err);
}

void control_answer_end(struct control *control, const struct snapshot_info *info,
			const struct err *err)
{
	size_t i;

	for (i = 0; i < CONTROL_MAX_CLIENTS; i++) {
		struct client *client = &control->clients[i];

		if (client->state == CLIENT_SNAPSHOT || waits_for_end(client))
			answer_one(client, info, err);
		else if (client->state != CLIENT_FREE)
			drop(client);
	}
}

void control_answer_status(struct control *control, json_t *status)
{
	size_t i;

	for (i = 0; i < CONTROL_MAX_CLIENTS; i++)
		if (control->clients[i].state == CLIENT_STATUS)
			answer(&control->clients[i],
			       json_pack("{s:b, s:O}", "ok", 1, "status", status));
	json_decref(status);
}
