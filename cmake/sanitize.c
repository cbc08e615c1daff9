/* Only in sanitizer builds: drivers stay loaded, so that the leak report can tell whose memory it names. */
int dlclose(void *handle);
int dlclose(void *handle) { return handle ? 0 : -1; }
