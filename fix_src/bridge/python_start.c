/* SPDX-License-Identifier: GPL-2.0-or-later */

#include <Python.h>

#include "python_start.h"

#include <signal.h>
#include <stdio.h>

static int failure(trajcast_message *message, const char *text) {
  snprintf(message->text, (size_t)message->capacity, "%s", text);
  return TRAJCAST_FAILED;
}

/* The pending Python exception as one line; clears it. Needs the GIL. */
static int python_failure(trajcast_message *message, const char *doing) {
  PyObject *type, *value, *traceback;
  PyErr_Fetch(&type, &value, &traceback);
  PyErr_NormalizeException(&type, &value, &traceback);
  PyObject *text = value ? PyObject_Str(value) : NULL;
  const char *utf8 = text ? PyUnicode_AsUTF8(text) : NULL;
  const char *name = type ? ((PyTypeObject *)type)->tp_name : "unknown error";
  snprintf(message->text, (size_t)message->capacity, "%s: %s: %s", doing, name, utf8 ? utf8 : "");
  Py_XDECREF(text);
  Py_XDECREF(type);
  Py_XDECREF(value);
  Py_XDECREF(traceback);
  PyErr_Clear();
  return TRAJCAST_FAILED;
}

static int start_interpreter(const char *executable, trajcast_message *message) {
  /* The process belongs to LAMMPS: its locale, which decides how numbers are read, its environment
     and the buffers of its streams stay as they are. Whatever waits in the buffer of stdin is the
     rest of an input script. */
  PyPreConfig before;
  PyPreConfig_InitPythonConfig(&before);
  before.parse_argv = 0;
  before.configure_locale = 0;
  before.coerce_c_locale = 0;
  before.coerce_c_locale_warn = 0;
  before.utf8_mode = 1;
  PyStatus status = Py_PreInitialize(&before);
  if (PyStatus_Exception(status))
    return failure(message, status.err_msg ? status.err_msg : "Python did not start");

  PyConfig config;
  PyConfig_InitPythonConfig(&config);
  config.install_signal_handlers = 0;
  config.parse_argv = 0;
  config.configure_c_stdio = 0;
  config.buffered_stdio = 0; /* of sys.stdout: nobody finalizes Python, so nobody would flush */
  status = PyConfig_SetBytesString(&config, &config.executable, executable);
  if (!PyStatus_Exception(status))
    status = PyConfig_SetBytesString(&config, &config.program_name, executable);

  /* Ctrl-C has to stop lmp. Python's signal module takes it over when it is first imported,
     whatever the configuration says: have that over, and give it back. */
  struct sigaction interrupt;
  sigaction(SIGINT, NULL, &interrupt);
  if (!PyStatus_Exception(status))
    status = Py_InitializeFromConfig(&config);
  PyConfig_Clear(&config);
  if (PyStatus_Exception(status))
    return failure(message, status.err_msg ? status.err_msg : "Python did not start");
  Py_XDECREF(PyImport_ImportModule("signal"));
  sigaction(SIGINT, &interrupt, NULL);

  PyEval_SaveThread();
  return TRAJCAST_OK;
}

int trajcast_python_start(const char *executable, const char *module_name, void *functions,
                          trajcast_message *message) {
  if (!Py_IsInitialized() && start_interpreter(executable, message) != TRAJCAST_OK)
    return TRAJCAST_FAILED;

  PyGILState_STATE gil = PyGILState_Ensure();
  int status = TRAJCAST_OK;
  PyObject *module = PyImport_ImportModule(module_name);
  PyObject *done =
      module ? PyObject_CallMethod(module, "register", "K", (unsigned long long)functions) : NULL;
  if (!done)
    status = python_failure(message, "importing lammps_trajcast failed");
  Py_XDECREF(done);
  Py_XDECREF(module);
  PyGILState_Release(gil);
  return status;
}
