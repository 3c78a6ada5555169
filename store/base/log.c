#include "store/base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <termios.h>
#include <unistd.h>

/* While a job has the terminal in raw mode, a line feed alone would leave the next line hanging in
 * mid-air. */
static const char *line_end(void)
{
	struct termios settings;

	return tcgetattr(STDERR_FILENO, &settings) == 0 && !(settings.c_oflag & OPOST) ? "\r\n" : "\n";
}

static void sink_stderr(enum log_level level, const char *line)
{
	char buf[1100];
	int len = snprintf(buf, sizeof(buf), "pawl: %s%s%s",
			   level == LOG_LEVEL_WARN ? "warning: " : "", line, line_end());

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
