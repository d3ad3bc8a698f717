package org.edgehadanorm.demo;

import android.content.res.Resources;
import android.graphics.Bitmap;
import android.graphics.drawable.BitmapDrawable;
import org.edgehadanorm.core.Picture;

/** Pictures as Android has them. */
final class Bitmaps {
    /** Pictures that are smaller are enlarged with their pixels visible, as they are. */
    private static final int SMOOTH_FROM = 128;

    private Bitmaps() {
    }

    static Bitmap of(Picture picture) {
        return Bitmap.createBitmap(picture.argb(), picture.width(), picture.height(), Bitmap.Config.ARGB_8888);
    }

    /** To be drawn at any size. */
    static BitmapDrawable drawable(Resources resources, Picture picture) {
        BitmapDrawable drawable = new BitmapDrawable(resources, of(picture));
        drawable.setFilterBitmap(Math.min(picture.width(), picture.height()) >= SMOOTH_FROM);
        return drawable;
    }
}
