/*
 * log.h: messages for a person, from any layer, through one sink.
 *
 * Libraries never print: they hand a line to the sink that the command
 * installed. The level is the only mutable global of pawl.
 */
#ifndef PAWL_STORE_BASE_LOG_H
#define PAWL_STORE_BASE_LOG_H

enum log_level {
	LOG_LEVEL_ERROR, /* the command or the job's protection failed */
	LOG_LEVEL_WARN,  /* the user should know and can do something */
	LOG_LEVEL_INFO,  /* what happened (default on a terminal) */
	LOG_LEVEL_DEBUG, /* for someone who debugs pawl */
};

/* Called with one line without newline. Must be safe from any thread. */
typedef void log_sink(enum log_level level, const char *line);

/* NULL restores the default sink: "pawl: line" on stderr, one write(2) a line. */
void log_set_sink(log_sink *sink);
void log_set_level(enum log_level most);

void log_line(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#define log_error(...) log_line(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warn(...)  log_line(LOG_LEVEL_WARN, __VA_ARGS__)
#define log_info(...)  log_line(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) log_line(LOG_LEVEL_DEBUG, __VA_ARGS__)

#endif
