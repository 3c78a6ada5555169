#include "checkpointer/tracee/ipc_limits.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

#include "store/base/cleanup.h"

const char *const ipc_limits[IPC_LIMITS] = {
	"kernel/shmmax",
	"kernel/shmall",
	"kernel/shmmni",
	"kernel/shm_rmid_forced",
	"kernel/sem",
	"kernel/msgmax",
	"kernel/msgmnb",
	"kernel/msgmni",
	"fs/mqueue/queues_max",
	"fs/mqueue/msg_max",
	"fs/mqueue/msgsize_max",
	"fs/mqueue/msg_default",
	"fs/mqueue/msgsize_default",
};

bool ipc_limit_is_known(const char *name)
{
	for (size_t i = 0; i < IPC_LIMITS; i++)
		if (strcmp(ipc_limits[i], name) == 0)
			return true;
	return false;
}

int ipc_sysctl_write(const char *name, const char *text)
{
	char path[128];
	cleanup_fd int fd = -1;

	snprintf(path, sizeof(path), "/proc/sys/%s", name);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	return fd < 0 || write(fd, text, strlen(text)) < 0 ? -1 : 0;
}
