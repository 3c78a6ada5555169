/*
 * unixnames.c: Unix sockets whose name does not lead to them any more: removed together with its directory, taken by a
 * FIFO or by a later socket, renamed to the name that others look for; with clients connected and waiting.
 */
#include "target.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

struct names {
	struct target target;
	char *dir, *gone, *same, *temporary, *final;
	int lost, to_lost;              /* its directory is gone */
	int first, second, to_first;    /* of the same name, the second has it */
	int under, to_under, fifo;      /* a relative name, where a FIFO is now */
	int moved, to_moved, of_moved;  /* listens, renamed */
	int unlinked, waiting;          /* listens, removed, with a client not accepted yet */
};

static struct sockaddr_un address_of(const char *path)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};

	CHECK(strlen(path) < sizeof(a.sun_path));
	strcpy(a.sun_path, path);
	return a;
}

static int bound(int type, const char *path)
{
	struct sockaddr_un a = address_of(path);
	int fd = socket(AF_UNIX, type, 0);

	CHECK(fd >= 0 && bind(fd, (struct sockaddr *)&a, sizeof(a)) == 0);
	return fd;
}

static int connected(int type, const char *path)
{
	struct sockaddr_un a = address_of(path);
	int fd = socket(AF_UNIX, type, 0);

	CHECK(fd >= 0 && connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0);
	return fd;
}

static void check_way(int from, int to)
{
	char byte = 0;

	CHECK(send(from, "w", 1, MSG_NOSIGNAL) == 1);
	CHECK(recv(to, &byte, 1, 0) == 1 && byte == 'w');
}

static void check_name(int fd, const char *path)
{
	struct sockaddr_un a = {0};
	socklen_t len = sizeof(a);

	CHECK(getsockname(fd, (struct sockaddr *)&a, &len) == 0 && strcmp(a.sun_path, path) == 0);
}

static void set_up_datagrams(struct names *n)
{
	CHECK(mkdir(n->dir, 0755) == 0);
	n->lost = bound(SOCK_DGRAM, n->gone);
	n->to_lost = connected(SOCK_DGRAM, n->gone);
	CHECK(send(n->to_lost, "q", 1, 0) == 1);
	CHECK(unlink(n->gone) == 0 && rmdir(n->dir) == 0);
	n->first = bound(SOCK_DGRAM, n->same);
	n->to_first = connected(SOCK_DGRAM, n->same);
	CHECK(unlink(n->same) == 0);
	n->second = bound(SOCK_DGRAM, n->same);
	CHECK(chdir(n->target.dir) == 0);
	n->under = bound(SOCK_DGRAM, "relative");
	n->to_under = connected(SOCK_DGRAM, "relative");
	CHECK(unlink("relative") == 0 && mkfifo("relative", 0600) == 0);
	n->fifo = open("relative", O_RDWR);
	CHECK(n->fifo >= 0);
}

static void set_up_listeners(struct names *n)
{
	n->moved = bound(SOCK_STREAM, n->temporary);
	CHECK(chmod(n->temporary, 0620) == 0 && listen(n->moved, 4) == 0);
	CHECK(rename(n->temporary, n->final) == 0);
	n->to_moved = connected(SOCK_STREAM, n->final);
	n->of_moved = accept(n->moved, NULL, NULL);
	CHECK(n->of_moved >= 0);
	n->unlinked = bound(SOCK_SEQPACKET, n->temporary);
	CHECK(listen(n->unlinked, 4) == 0);
	n->waiting = connected(SOCK_SEQPACKET, n->temporary);
	CHECK(unlink(n->temporary) == 0);
}

static void check_datagrams(struct names *n)
{
	char byte = 0;

	CHECK(recv(n->lost, &byte, 1, MSG_DONTWAIT) == 1 && byte == 'q');
	check_way(n->to_lost, n->lost);
	check_name(n->lost, n->gone);
	CHECK(access(n->dir, F_OK) < 0);
	check_way(n->to_first, n->first);
	check_way(connected(SOCK_DGRAM, n->same), n->second);
	check_name(n->first, n->same);
	check_way(n->to_under, n->under);
	check_name(n->under, "relative");
	CHECK(write(n->fifo, "f", 1) == 1 && read(n->fifo, &byte, 1) == 1 && byte == 'f');
}

static void check_listeners(struct names *n)
{
	struct stat st;
	int client, server;

	check_way(n->to_moved, n->of_moved);
	check_name(n->moved, n->temporary);
	client = connected(SOCK_STREAM, n->final);
	server = accept(n->moved, NULL, NULL);
	check_way(client, server);
	CHECK(stat(n->final, &st) == 0 && (st.st_mode & 07777) == 0620);
	CHECK(access(n->temporary, F_OK) < 0);
	check_name(n->unlinked, n->temporary);
	server = accept(n->unlinked, NULL, NULL);
	CHECK(server >= 0);
	check_way(n->waiting, server);
	check_way(server, n->waiting);
}

int main(int argc, char **argv)
{
	struct names n = {0};

	target_start(&n.target, argc, argv);
	n.dir = target_path(&n.target, "directory");
	n.gone = target_path(&n.target, "directory/gone");
	n.same = target_path(&n.target, "same");
	n.temporary = target_path(&n.target, "temporary");
	n.final = target_path(&n.target, "final");
	set_up_datagrams(&n);
	set_up_listeners(&n);
	target_ready(&n.target);
	target_wait(&n.target);
	check_datagrams(&n);
	check_listeners(&n);
	return target_pass(&n.target);
}
