#include "checkpointer/tracee/procfs_cgroup.h"

#include <stdlib.h>
#include <string.h>

#include "checkpointer/tracee/procfs_text.h"
#include "store/base/cleanup.h"

/* "4:memory:/a/b"; "0::/a/b" is that of the unified hierarchy (cgroups(7)). */
static int take_line(const struct text *line, struct proc_cgroup *ret)
{
	const char *first = memchr(line->p, ':', (size_t)(line->end - line->p)), *second;

	second = first ? memchr(first + 1, ':', (size_t)(line->end - first - 1)) : NULL;
	if (!second || second + 1 == line->end || second[1] != '/')
		return -1;
	ret->hierarchy = strndup(first + 1, (size_t)(second - first - 1));
	ret->path = strndup(second + 1, (size_t)(line->end - second - 1));
	return 0;
}

int proc_parse_cgroups(const char *text, struct proc_cgroups *ret, struct err *err)
{
	struct proc_cgroups list = {0};
	struct text line;

	while (text_next_line(&text, &line)) {
		struct proc_cgroup *more;

		if (line.p == line.end)
			continue;
		more = reallocarray(list.list, list.n + 1, sizeof(*more));
		if (!more) {
			proc_cgroups_clear(&list);
			return err_sys(err, "control groups");
		}
		list.list = more;
		more[list.n] = (struct proc_cgroup){0};
		if (take_line(&line, &more[list.n++]) < 0) {
			proc_cgroups_clear(&list);
			return text_corrupt(err, "cgroup", line.p);
		}
	}
	*ret = list;
	return 0;
}

int proc_read_cgroups(pid_t pid, struct proc_cgroups *ret, struct err *err)
{
	cleanup_free char *text = NULL;

	if (text_read(&text, err, "/proc/%d/cgroup", (int)pid) < 0)
		return -1;
	return proc_parse_cgroups(text, ret, err);
}

void proc_cgroups_clear(struct proc_cgroups *list)
{
	for (size_t i = 0; i < list->n; i++) {
		free(list->list[i].hierarchy);
		free(list->list[i].path);
	}
	free(list->list);
	*list = (struct proc_cgroups){0};
}

const struct proc_cgroup *proc_cgroup_find(const struct proc_cgroups *list, const char *hierarchy)
{
	for (size_t i = 0; i < list->n; i++)
		if (strcmp(list->list[i].hierarchy, hierarchy) == 0)
			return &list->list[i];
	return NULL;
}

const char *proc_cgroup_below(const char *above, const char *path)
{
	size_t len = strcmp(above, "/") == 0 ? 0 : strlen(above);

	if (strncmp(path, above, len) != 0 || path[len] != '/' || path[len + 1] == '\0')
		return NULL;
	return path + len;
}
