#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "store/base/cleanup.h"
#include "watchdog/control.h"

/* sun_path has 108 bytes; the directory is named by a descriptor, so that any path fits. */
static int short_address(const char *path, struct sockaddr_un *ret, int *ret_dir, struct err *err)
{
	char parent[PATH_MAX], name[PATH_MAX];
	int dir, len;

	snprintf(parent, sizeof(parent), "%s", path);
	snprintf(name, sizeof(name), "%s", path);
	dir = open(dirname(parent), O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0)
		return err_sys(err, "cannot open the directory of %s", path);
	*ret = (struct sockaddr_un){.sun_family = AF_UNIX};
	len = snprintf(ret->sun_path, sizeof(ret->sun_path), "/proc/self/fd/%d/%.64s", dir,
		       basename(name));
	if (len >= (int)sizeof(ret->sun_path)) {
		close(dir);
		return err_set(err, ERR_INVALID, "%s: the name is too long", path);
	}
	*ret_dir = dir;
	return 0;
}

int control_socket(const char *path, bool listen_there, struct err *err)
{
	cleanup_fd int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	cleanup_fd int dir = -1;
	struct sockaddr_un address;

	if (fd < 0)
		return err_sys(err, "cannot make the control socket");
	if (short_address(path, &address, &dir, err) < 0)
		return -1;
	if (!listen_there) {
		if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
			return err_sys(err, "cannot reach the job's watchdog");
		return steal_fd(&fd);
	}
	unlink(path);
	if (bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 ||
	    chmod(address.sun_path, 0600) < 0 || fcntl(fd, F_SETFL, O_NONBLOCK) < 0 ||
	    listen(fd, 8) < 0)
		return err_sys(err, "cannot listen at %s", path);
	return steal_fd(&fd);
}
