package org.edgehadanorm.demo;

import android.app.ActivityManager;
import android.content.Context;
import android.os.Build;
import java.util.LinkedHashMap;
import java.util.Map;

/** What a measurement has to name of the device that it was made on. */
final class DeviceFacts {
    private static final int MEBI = 1 << 20;
    private final ActivityManager activities;

    DeviceFacts(Context context) {
        activities = (ActivityManager) context.getSystemService(Context.ACTIVITY_SERVICE);
    }

    /** Cores of the processor, also those that sleep. */
    static int cores() {
        return Runtime.getRuntime().availableProcessors();
    }

    /** What ExecuTorch takes if it is not told: slow cores would hold the fast ones back. */
    static int usualThreads() {
        return Math.max(1, cores() / 2);
    }

    static String model() {
        return Build.MODEL.startsWith(Build.MANUFACTURER) ? Build.MODEL : Build.MANUFACTURER + " " + Build.MODEL;
    }

    /** Names and values for people and for JSON, in the order to show. */
    Map<String, String> all(int threads) {
        Map<String, String> facts = new LinkedHashMap<>();
        facts.put("device", model());
        facts.put("chip", Api.chip());
        facts.put("abi", Api.abi());
        facts.put("cores", String.valueOf(cores()));
        facts.put("threads", String.valueOf(threads));
        facts.put("memory_mib", String.valueOf(memory().totalMem / MEBI));
        facts.put("android", Build.VERSION.RELEASE + " (API " + Build.VERSION.SDK_INT + ")");
        return facts;
    }

    /** Bytes that apps can still take before the system ends others for them; at least 1, for 0 is unknown. */
    long freeMemory() {
        ActivityManager.MemoryInfo now = memory();
        return Math.max(1, now.availMem - now.threshold);
    }

    private ActivityManager.MemoryInfo memory() {
        ActivityManager.MemoryInfo info = new ActivityManager.MemoryInfo();
        activities.getMemoryInfo(info);
        return info;
    }
}
