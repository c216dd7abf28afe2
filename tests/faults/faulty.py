"""A detector that fails on one image, in the way that the environment says."""

import ctypes
import os
import signal
import time

import numpy as np

from features import Detections
from pipeline.detect import detectors


@detectors.register("faulty")
class Faulty:
    needs_pixels = True
    provides = frozenset({"labels", "scores", "size"})

    def identity(self):
        return {"name": "faulty", "version": int(os.environ.get("FAULTY_VERSION", "1"))}

    def covers(self, image_id):
        return True

    def detect(self, image):
        time.sleep(float(os.environ.get("FAULTY_SECONDS", "0")))
        if image.image_id == os.environ.get("FAULTY_IMAGE"):
            return fail(os.environ["FAULTY_MODE"])
        level = float(image.rgb()[::7, ::5].mean())
        boxes = np.array([[1, 1, 30, 30], [5, 5, 60, 20 + level / 8]], np.float32)
        return Detections(boxes, ("a", "b"), np.array([0.9, 0.5], np.float32), image.size)


def fail(mode):
    if mode == "exit":
        os._exit(9)
    elif mode == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif mode == "crash":
        ctypes.string_at(0)
    elif mode == "hang":
        while True:
            time.sleep(1)
    elif mode == "raise":
        raise ZeroDivisionError("no such luck")
    elif mode == "leave":
        raise SystemExit(0)
    elif mode == "memory":
        np.ones(1 << 36, np.uint8)
    elif mode == "io":
        raise OSError(5, "Input/output error")
    elif mode == "none":
        return
