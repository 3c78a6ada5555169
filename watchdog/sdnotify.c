#include "watchdog/sdnotify.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "store/base/log.h"

/* A path, or with '@' in front an abstract name. */
static int connect_to(const char *name)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	size_t len = strlen(name);
	int fd;

	if (len < 2 || len >= sizeof(address.sun_path) || (name[0] != '/' && name[0] != '@'))
		return -1;
	memcpy(address.sun_path, name, len);
	if (name[0] == '@')
		address.sun_path[0] = '\0';
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd >= 0 && connect(fd, (const struct sockaddr *)&address,
			       (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len)) < 0) {
		close(fd);
		return -1;
	}
	return fd;
}

static uint64_t read_watchdog(void)
{
	const char *usec = getenv("WATCHDOG_USEC"), *pid = getenv("WATCHDOG_PID");

	if (!usec || (pid && strtol(pid, NULL, 10) != (long)getpid()))
		return 0;
	return strtoull(usec, NULL, 10) * 1000;
}

void sdnotify_open(struct sdnotify *ret)
{
	const char *name = getenv("NOTIFY_SOCKET");

	*ret = (struct sdnotify){.fd = -1};
	if (name) {
		ret->fd = connect_to(name);
		ret->watchdog_ns = ret->fd < 0 ? 0 : read_watchdog();
		if (ret->fd < 0)
			log_warn("cannot reach the service manager at NOTIFY_SOCKET=%s", name);
	}
	unsetenv("NOTIFY_SOCKET");
	unsetenv("WATCHDOG_USEC");
	unsetenv("WATCHDOG_PID");
}

void sdnotify_close(struct sdnotify *notify)
{
	if (notify->fd >= 0)
		close(notify->fd);
	notify->fd = -1;
}

void sdnotify_send(const struct sdnotify *notify, const char *fmt, ...)
{
	char text[640];
	va_list ap;
	int len;

	if (notify->fd < 0)
		return;
	va_start(ap, fmt);
	len = vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (len > 0 &&
	    send(notify->fd, text, (size_t)len < sizeof(text) ? (size_t)len : sizeof(text) - 1,
		 MSG_NOSIGNAL) < 0)
		log_debug("the service manager did not hear: %s", text);
}
