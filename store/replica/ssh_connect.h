/*
 * ssh_connect.h: a `pawl receive --negotiate` on another machine, through the user's own ssh.
 *
 * ssh reads the user's configuration, agent and known hosts as always; it is never asked for a password
 * (BatchMode), since nobody may be there. $PAWL_SSH, a shell command line, takes the place of "ssh -o BatchMode=yes
 * -o ConnectTimeout=20 -o ServerAliveInterval=15 -o ServerAliveCountMax=4"; $PAWL_REMOTE that of "pawl" on the other
 * machine.
 */
#ifndef PAWL_STORE_REPLICA_SSH_CONNECT_H
#define PAWL_STORE_REPLICA_SSH_CONNECT_H

#include <sys/types.h>

#include "store/wire/channel.h"

struct ssh_target {
	char host[512];   /* [user@]host */
	char port[8];     /* empty: as configured */
	char store[1024]; /* empty: the default one there */
	char **environment; /* ssh is started in it; borrowed. NULL: our own */
};

/* The variables that decide how ssh gets there, of this process, as "NAME=value", or "NAME" where it is not set: for another
 * that is to go there as we would. *ret: NULL at its end; free(). */
int ssh_environment_get(char ***ret, struct err *err);
/* Our environment, with those of them that another process has told as they are there; what else it tells is not
 * looked at. *ret as above. */
int ssh_environment_as(char *const *theirs, char ***ret, struct err *err);
/* A copy in one piece, with NULL at its end; free(). */
int strings_copy(const char *const *list, size_t n, char ***ret, struct err *err);
/* NULL where it is not set, or empty. environment NULL: our own. */
const char *ssh_environment_value(char *const *environment, const char *name);

/* "[user@]host[:port][/store]", an IPv6 address in brackets. ERR_INVALID. Pure. */
int ssh_target_parse(const char *text, struct ssh_target *ret, struct err *err);

struct ssh_connection { /* starts as {.fd = -1, .messages = -1} */
	int fd, messages;
	pid_t pid;
	struct wire_channel ch;
};

/* Connected, headers exchanged. ERR_UNREACHABLE says what ssh said. */
int ssh_connect(struct ssh_connection *c, const struct ssh_target *target, struct err *err);
void ssh_disconnect(struct ssh_connection *c);
/* What to do about what ssh, or the shell there, has said; "": nothing is known. Pure. */
const char *ssh_hint(const char *text);
/* The other end has gone: what ssh said of it is put into err, and the connection closed. */
void ssh_explain(struct ssh_connection *c, struct err *err);

#endif
