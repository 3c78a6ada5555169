#include "checkpointer/tracee/procfs_net.h"

#include <stdlib.h>
#include <string.h>

#include "checkpointer/tracee/procfs.h"
#include "checkpointer/tracee/procfs_text.h"
#include "store/base/cleanup.h"

static struct multicast_group *append(struct multicast_groups *list, struct err *err)
{
	struct multicast_group *more = reallocarray(list->list, list->n + 1, sizeof(*more));

	if (!more) {
		err_sys(err, "list of multicast groups");
		return NULL;
	}
	list->list = more;
	more[list->n] = (struct multicast_group){0};
	return &more[list->n++];
}

static bool take_word(struct text *t, char *ret, size_t room)
{
	size_t n = 0;

	text_skip_blanks(t);
	while (t->p < t->end && *t->p != ' ' && *t->p != '\t' && *t->p != ':' && n + 1 < room)
		ret[n++] = *t->p++;
	ret[n] = '\0';
	return n > 0;
}

static int bad_line(const char *what, const char *line, struct err *err)
{
	return text_corrupt(err, what, line);
}

/* "1\tlo        :     1      V3" begins an interface; "\t\t\t\t010000E0     1 0:00000000\t\t0" is a group of it. */
int proc_parse_igmp(const char *text, struct multicast_groups *list, struct err *err)
{
	char name[MULTICAST_NAME_ROOM] = "";
	struct text line;
	uint64_t index = 0, value;
	bool head = true;

	while (text_next_line(&text, &line)) {
		const char *start = line.p;
		struct multicast_group *g;
		uint32_t raw;

		if (head || line.p == line.end) {
			head = false;
			continue;
		}
		if (*line.p != '\t') {
			if (!text_field(&line, 10, &index) || !take_word(&line, name, sizeof(name)))
				return bad_line("/proc/net/igmp", start, err);
			continue;
		}
		if (!text_field(&line, 16, &value) || value > UINT32_MAX || !*name || index > INT32_MAX)
			return bad_line("/proc/net/igmp", start, err);
		g = append(list, err);
		if (!g)
			return -1;
		/* The address as it lies in memory, printed as a number (net/ipv4/igmp.c, igmp_mc_seq_show). */
		raw = (uint32_t)value;
		memcpy(g->address, &raw, sizeof(raw));
		g->len = sizeof(raw);
		g->index = (int)index;
		memcpy(g->name, name, sizeof(name));
	}
	return 0;
}

/* "1    lo              ff020000000000000000000000000001     1 0000000C 0" */
int proc_parse_igmp6(const char *text, struct multicast_groups *list, struct err *err)
{
	struct text line;

	while (text_next_line(&text, &line)) {
		struct multicast_group g = {.len = 16}, *added;
		const char *start = line.p;
		uint64_t index;

		if (line.p == line.end)
			continue;
		if (!text_field(&line, 10, &index) || index > INT32_MAX ||
		    !take_word(&line, g.name, sizeof(g.name)))
			return bad_line("/proc/net/igmp6", start, err);
		text_skip_blanks(&line);
		for (size_t i = 0; i < g.len; i++) {
			unsigned high, low;

			if (line.end - line.p < 2 || (high = (unsigned)text_digit(line.p[0])) > 15 ||
			    (low = (unsigned)text_digit(line.p[1])) > 15)
				return bad_line("/proc/net/igmp6", start, err);
			g.address[i] = (uint8_t)(high << 4 | low);
			line.p += 2;
		}
		g.index = (int)index;
		added = append(list, err);
		if (!added)
			return -1;
		*added = g;
	}
	return 0;
}

/* A kernel without the protocol has no such file. */
static int read_one(const char *path, int (*parse)(const char *, struct multicast_groups *, struct err *),
		    struct multicast_groups *list, struct err *err)
{
	cleanup_free char *text = NULL;
	struct err why;

	if (text_read(&text, &why, "%s", path) < 0)
		return 0;
	return parse(text, list, err);
}

int proc_read_multicast(struct multicast_groups *ret, struct err *err)
{
	struct multicast_groups list = {0};

	if (read_one("/proc/self/net/igmp", proc_parse_igmp, &list, err) < 0 ||
	    read_one("/proc/self/net/igmp6", proc_parse_igmp6, &list, err) < 0) {
		multicast_groups_clear(&list);
		return -1;
	}
	*ret = list;
	return 0;
}

void multicast_groups_clear(struct multicast_groups *list)
{
	free(list->list);
	*list = (struct multicast_groups){0};
}
