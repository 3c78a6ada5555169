#include "checkpointer/shared.h"

#include <linux/kcmp.h>
#include <search.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static long compare_files(pid_t a, int a_fd, pid_t b, int b_fd)
{
	return syscall(SYS_kcmp, a, b, KCMP_FILE, (unsigned long)a_fd, (unsigned long)b_fd);
}

static int compare(const void *one, const void *other)
{
	const struct shared_entry *a = one, *b = other;
	long order;

	if (a->inode != b->inode)
		return a->inode < b->inode ? -1 : 1;
	if (a->device != b->device)
		return a->device < b->device ? -1 : 1;
	order = compare_files(a->pid, a->fd, b->pid, b->fd);
	if (order == 0)
		return 0;
	return order == 1 ? -1 : 1;
}

int32_t shared_find(const struct shared_list *s, const struct shared_entry *descriptor)
{
	struct shared_entry *const *found = tfind(descriptor, &s->tree, compare);

	return found ? (*found)->open_file : -1;
}

static int make_room(struct shared_list *s, struct err *err)
{
	size_t room = s->room ? s->room * 2 : 64;
	struct shared_entry **more;

	if (s->n < s->room)
		return 0;
	more = reallocarray(s->list, room, sizeof(struct shared_entry *));
	if (!more)
		return err_sys(err, "list of open files");
	s->list = more;
	s->room = room;
	return 0;
}

int shared_add(struct shared_list *s, const struct shared_entry *descriptor, struct err *err)
{
	struct shared_entry *copy;

	if (make_room(s, err) < 0)
		return -1;
	copy = malloc(sizeof(*copy));
	if (!copy)
		return err_sys(err, "list of open files");
	*copy = *descriptor;
	s->list[s->n++] = copy;
	return tsearch(copy, &s->tree, compare) ? 0 : err_sys(err, "list of open files");
}

bool shared_is_same(pid_t a, int a_fd, pid_t b, int b_fd)
{
	return compare_files(a, a_fd, b, b_fd) == 0;
}

static void keep(void *entry)
{
	(void)entry; /* the list's */
}

void shared_clear(struct shared_list *s)
{
	tdestroy(s->tree, keep);
	for (size_t i = 0; i < s->n; i++)
		free(s->list[i]);
	free(s->list);
	memset(s, 0, sizeof(*s));
}
