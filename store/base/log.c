#include "store/base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

static void sink_stderr(enum log_level level, const char *line)
{
	char buf[1100];
	int len = snprintf(buf, sizeof(buf), "pawl: %s%s\n",
			   level == LOG_LEVEL_WARN ? "warning: " : "", line);

	if (len > (int)sizeof(buf) - 1)
		len = (int)sizeof(buf) - 1;
	/* One write a line: lines of several threads and processes do not mix. */
	if (write(STDERR_FILENO, buf, (size_t)len) < 0)
		return; /* nobody left to tell */
}

static log_sink *current_sink = sink_stderr;
static enum log_level current_level = LOG_LEVEL_INFO;

void log_set_sink(log_sink *sink)
{
	current_sink = sink ? sink : sink_stderr;
}

void log_set_level(enum log_level most)
{
	current_level = most;
}

void log_line(enum log_level level, const char *fmt, ...)
{
	char line[1024];
	va_list ap;

	if (level > current_level)
		return;
	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	current_sink(level, line);
}
