#include "store/replica/ssh_connect.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "store/base/cleanup.h"
#include "store/base/io.h"

#define CONNECT_MS 120000 /* ssh, the other pawl, the opening of its store */
#define LEAVE_MS   5000
#define LAST_WORDS_MS 2000

extern char **environ;

/* ---- names --------------------------------------------------------------------------------- */

static int bad_target(const char *text, struct err *err)
{
	return err_set(err, ERR_INVALID,
		       "destination 'ssh://%.200s' is not ssh://[USER@]HOST[:PORT][/STORE]", text);
}

/* Splits host[:port]; an address in brackets loses them. */
static bool split_port(char *host, char *port, size_t room)
{
	char *at = strrchr(host, '@'), *name = at ? at + 1 : host, *end, *colon;

	if (*name == '[') {
		end = strchr(name, ']');
		if (!end)
			return false;
		memmove(name, name + 1, strlen(name));
		end[-1] = '\0';
		colon = end[0] == '\0' ? NULL : end;
		/* "[::1]:22": what follows the bracket has moved by one. */
		if (colon && *colon != ':')
			return false;
	} else {
		colon = strchr(name, ':');
	}
	if (colon) {
		*colon = '\0';
		if (!colon[1] || strlen(colon + 1) >= room ||
		    strspn(colon + 1, "0123456789") != strlen(colon + 1))
			return false;
		snprintf(port, room, "%s", colon + 1);
	}
	return *name != '\0' && at != host;
}

int ssh_target_parse(const char *text, struct ssh_target *ret, struct err *err)
{
	size_t len = strcspn(text, "/");
	struct ssh_target target = {0};

	if (len == 0 || len >= sizeof(target.host) || strlen(text + len) >= sizeof(target.store))
		return bad_target(text, err);
	memcpy(target.host, text, len);
	if (text[len] && text[len + 1])
		snprintf(target.store, sizeof(target.store), "%s", text + len);
	/* "/~/x": below the home directory there. */
	if (strncmp(target.store, "/~/", 3) == 0)
		memmove(target.store, target.store + 3, strlen(target.store + 3) + 1);
	/* ssh would take a leading '-' for an option. */
	if (!split_port(target.host, target.port, sizeof(target.port)) || target.host[0] == '-' ||
	    target.store[0] == '-')
		return bad_target(text, err);
	*ret = target;
	return 0;
}

/* ---- starting ssh -------------------------------------------------------------------------- */

/* The other machine's shell sees this line. */
static void quote(const char *text, char *buf, size_t room)
{
	size_t n = 0;

	buf[n++] = '\'';
	for (; *text && n + 6 < room; text++) {
		if (*text == '\'')
			n += (size_t)snprintf(buf + n, room - n, "'\\''");
		else
			buf[n++] = *text;
	}
	buf[n++] = '\'';
	buf[n] = '\0';
}

static int remote_command(const struct ssh_target *target, char **ret)
{
	const char *pawl = ssh_environment_value(target->environment, "PAWL_REMOTE");
	char store[sizeof(target->store) * 4 + 8];

	quote(target->store, store, sizeof(store));
	return asprintf(ret, "%s receive --negotiate%s%s", pawl ? pawl : "pawl",
			target->store[0] ? " --store " : "", target->store[0] ? store : "");
}

static int local_command(const struct ssh_target *target, char **ret)
{
	const char *ssh = ssh_environment_value(target->environment, "PAWL_SSH");

	return asprintf(ret, "p=$1; shift; exec %s ${p:+-p \"$p\"} -- \"$@\"",
			ssh ? ssh
			    : "ssh -o BatchMode=yes -o ConnectTimeout=20 -o ServerAliveInterval=15 -o ServerAliveCountMax=4");
}

static int spawn_shell(const struct ssh_target *target, char *script, char *remote, int fd, int messages, pid_t *ret)
{
	char *argv[] = {(char *)"sh", (char *)"-c", script, (char *)"ssh", (char *)target->port,
			(char *)target->host, remote, NULL};
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attr;
	sigset_t none, all;
	int rc;

	sigemptyset(&none);
	sigfillset(&all);
	posix_spawn_file_actions_init(&actions);
	posix_spawnattr_init(&attr);
	posix_spawn_file_actions_adddup2(&actions, fd, 0);
	posix_spawn_file_actions_adddup2(&actions, fd, 1);
	posix_spawn_file_actions_adddup2(&actions, messages, 2);
	/* What the terminal sends is for us to act on; and our signal mask is our own. */
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK |
						POSIX_SPAWN_SETSIGDEF);
	posix_spawnattr_setsigmask(&attr, &none);
	posix_spawnattr_setsigdefault(&attr, &all);
	rc = posix_spawn(ret, "/bin/sh", &actions, &attr, argv,
			 target->environment ? target->environment : environ);
	posix_spawn_file_actions_destroy(&actions);
	posix_spawnattr_destroy(&attr);
	return rc;
}

/* 0, or an errno. */
static int spawn(const struct ssh_target *target, int fd, int messages, pid_t *ret)
{
	cleanup_free char *remote = NULL, *script = NULL;

	if (remote_command(target, &remote) < 0 || local_command(target, &script) < 0)
		return ENOMEM;
	return spawn_shell(target, script, remote, fd, messages, ret);
}

static int start_ssh(struct ssh_connection *c, const struct ssh_target *target, struct err *err)
{
	cleanup_fd int theirs = -1, said = -1;
	int pair[2], pipes[2], rc;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return err_sys(err, "cannot start ssh");
	c->fd = pair[0];
	theirs = pair[1];
	if (pipe2(pipes, O_CLOEXEC | O_NONBLOCK) < 0)
		return err_sys(err, "cannot start ssh");
	c->messages = pipes[0];
	said = pipes[1];
	rc = spawn(target, theirs, said, &c->pid);
	if (rc) {
		c->pid = 0;
		return err_code(err, rc, "cannot start ssh");
	}
	return 0;
}

int ssh_connect(struct ssh_connection *c, const struct ssh_target *target, struct err *err)
{
	uint32_t flags;

	*c = (struct ssh_connection){.fd = -1, .messages = -1};
	if (start_ssh(c, target, err) < 0) {
		ssh_disconnect(c);
		return -1;
	}
	wire_channel_init(&c->ch, c->fd, c->fd);
	c->ch.patience_ms = CONNECT_MS;
	if (wire_open(&c->ch, WIRE_NEGOTIATED, err) < 0 || wire_accept(&c->ch, &flags, err) < 0) {
		if (err->kind == ERR_CORRUPT)
			err_wrap(err, "what answers is not pawl alone (does a start-up file of the shell there print "
				      "something?)");
		ssh_explain(c, err);
		return -1;
	}
	return 0;
}

/* ---- the end ------------------------------------------------------------------------------- */

/* Waits for it a while, then ends it. */
static void reap(pid_t pid)
{
	for (int waited = 0; waited < LEAVE_MS; waited += 20) {
		if (waitpid(pid, NULL, WNOHANG) != 0)
			return;
		poll(NULL, 0, 20);
	}
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

void ssh_disconnect(struct ssh_connection *c)
{
	wire_channel_clear(&c->ch);
	if (c->fd >= 0)
		close(c->fd);
	if (c->messages >= 0)
		close(c->messages);
	if (c->pid > 0)
		reap(c->pid);
	*c = (struct ssh_connection){.fd = -1, .messages = -1};
}

/* The last line of what was said, printable. */
static void last_line(char *text, size_t n)
{
	char *line;

	while (n > 0 && isspace((unsigned char)text[n - 1]))
		n--;
	text[n] = '\0';
	line = strrchr(text, '\n');
	if (line)
		memmove(text, line + 1, strlen(line + 1) + 1);
	for (char *p = text; *p; p++)
		if ((unsigned char)*p < 32 || *p == 127)
			*p = ' ';
}

const char *ssh_hint(const char *text)
{
	static const struct {
		const char *part, *hint;
	} hints[] = {
		{"not found", " (is pawl installed there? $PAWL_REMOTE says which one is run)"},
		{"No such file or directory", " (is pawl installed there? $PAWL_REMOTE says which one is run)"},
		{"Host key verification failed", " (connect once by hand with ssh, and say yes to its key)"},
		{"Permission denied (", " (ssh must let you in without a question: a key, or an agent)"},
	};

	/* What pawl there says explains itself. */
	for (size_t i = 0; i < sizeof(hints) / sizeof(*hints) && strncmp(text, "pawl: ", 6) != 0; i++)
		if (strstr(text, hints[i].part))
			return hints[i].hint;
	return "";
}

void ssh_explain(struct ssh_connection *c, struct err *err)
{
	struct pollfd said = {.fd = c->messages, .events = POLLIN};
	char text[1024];
	size_t n = 0;

	if (c->fd >= 0)
		shutdown(c->fd, SHUT_WR);
	while (c->messages >= 0 && n < sizeof(text) - 1 && poll(&said, 1, LAST_WORDS_MS) > 0) {
		ssize_t got = read(c->messages, text + n, sizeof(text) - 1 - n);

		if (got <= 0)
			break;
		n += (size_t)got;
	}
	last_line(text, n);
	if (text[0] && (err->kind == ERR_UNREACHABLE || err->kind == ERR_CORRUPT))
		err_set(err, ERR_UNREACHABLE, "%.300s%s", strncmp(text, "pawl: ", 6) == 0 ? text + 6 : text,
			ssh_hint(text));
	ssh_disconnect(c);
}
