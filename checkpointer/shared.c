#include "checkpointer/shared.h"

#include <linux/kcmp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

int32_t shared_find(const struct shared_list *s, pid_t pid, int fd, size_t *ret_at)
{
	size_t low = 0, high = s->n;

	while (low < high) {
		size_t middle = low + (high - low) / 2;
		const struct shared_entry *e = &s->list[middle];
		long order = syscall(SYS_kcmp, pid, e->pid, KCMP_FILE, (unsigned long)fd,
				     (unsigned long)e->fd);

		if (order == 0)
			return e->open_file;
		if (order == 1)
			high = middle;
		else
			low = middle + 1;
	}
	*ret_at = low;
	return -1;
}

int shared_add(struct shared_list *s, size_t at, pid_t pid, int fd, int32_t open_file, struct err *err)
{
	if (s->n == s->room) {
		size_t room = s->room ? s->room * 2 : 64;
		struct shared_entry *more = reallocarray(s->list, room, sizeof(*more));

		if (!more)
			return err_sys(err, "list of open files");
		s->list = more;
		s->room = room;
	}
	memmove(&s->list[at + 1], &s->list[at], (s->n - at) * sizeof(*s->list));
	s->list[at] = (struct shared_entry){pid, fd, open_file};
	s->n++;
	return 0;
}

void shared_clear(struct shared_list *s)
{
	free(s->list);
	memset(s, 0, sizeof(*s));
}
