#include "watchdog/progress.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "store/base/io.h"
#include "store/base/units.h"

/* Short jobs end without one. */
#define FIRST_AFTER_NS (2 * NSEC_PER_SEC)

const char *progress_text(const struct progress *p, const char *job, uint64_t now,
			  uint64_t realtime, char *buf, size_t len)
{
	char elapsed[32], ago[32], pause[32], size[32];

	format_duration(now - p->started, elapsed, sizeof(elapsed));
	if (!p->has_last) {
		snprintf(buf, len, "pawl: %s %s, no snapshot yet", job, elapsed);
		return buf;
	}
	format_duration(realtime > p->last.time ? realtime - p->last.time : 0, ago, sizeof(ago));
	format_duration(p->last.pause_us * 1000, pause, sizeof(pause));
	format_size(p->last.bytes_stored, size, sizeof(size));
	snprintf(buf, len, "pawl: %s %s, snapshot @%" PRIu64 " %s ago (pause %s, stored %s)", job,
		 elapsed, p->last.seq, ago, pause, size);
	return buf;
}

static size_t columns(void)
{
	struct winsize size;

	return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 1 ? size.ws_col : 80;
}

/* A line that is too long would wrap, and could not be drawn over. */
void progress_draw(struct progress *p, const char *job, uint64_t now)
{
	char text[400], line[440];
	size_t room = columns() - 1;
	int len;

	if (!p->enabled || now - p->started < FIRST_AFTER_NS || now - p->drawn < NSEC_PER_SEC)
		return;
	progress_text(p, job, now, clock_ns(CLOCK_REALTIME), text, sizeof(text));
	len = snprintf(line, sizeof(line), "\r%.*s\033[K", (int)room, text);
	if (write(STDERR_FILENO, line, (size_t)len) < 0)
		p->enabled = false;
	p->drawn = now;
	p->shown = true;
}

void progress_clear(struct progress *p)
{
	static const char erase[] = "\r\033[K";

	if (p->shown && write(STDERR_FILENO, erase, sizeof(erase) - 1) < 0)
		p->enabled = false;
	p->shown = false;
}
